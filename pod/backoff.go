package pod

import (
	"context"
	"time"
)

// Backoff paces the attempts to reach a source: the pause before the second attempt, which doubles with each further one that
// fails, up to the longest.
type Backoff struct{ First, Longest time.Duration }

// Repeat calls try until ctx is done, and returns only then. try returns when the source is lost, with the reason, or nil to be
// called again at once; it calls reached as soon as it has the source, and the next pause is the first again. lost is told of each
// reason, before the pause. All calls come from this goroutine.
func (b Backoff) Repeat(ctx context.Context, try func(reached func()) error, lost func(error)) {
	pause := b.First
	for {
		err := try(func() { pause = b.First })
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue
		}
		lost(err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		pause = min(2*pause, b.Longest)
	}
}
