package webhook

import (
	"errors"
	"fmt"
	"math"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// Errors of Accept that a caller decides on. They change nothing.
var (
	ErrInvalid    = errors.New("invalid event")
	ErrOutOfOrder = errors.New("event out of order")       // an earlier one, again or late
	ErrTooMany    = errors.New("too many sources")         // maxSources others have spoken
	ErrNotRunning = errors.New("the webhook does not run") // nobody would hear it
)

// Event is what a source says. The package comment explains the fields.
type Event struct {
	Condition string     `json:"condition"`
	Runtime   *float64   `json:"runtime_s,omitempty"` // seconds
	Charge    *float64   `json:"charge,omitempty"`    // percent
	Detail    string     `json:"detail,omitempty"`
	Source    string     `json:"source,omitempty"`
	At        *time.Time `json:"at,omitempty"`
	Sequence  uint64     `json:"sequence,omitempty"`
}

// Answer is what a source is told.
type Answer struct {
	Condition string  `json:"condition"`           // of all sources together, in the words of pod.Condition
	Expires   float64 `json:"expires_s,omitempty"` // seconds until this source must have spoken again; 0: never
}

const conditionTest = "test"

// conditions are the words that announce something.
var conditions = map[string]pod.Condition{
	"mains": pod.Mains, "on-battery": pod.OnBattery, "low-battery": pod.LowBattery, "going": pod.Going,
}

// Conditions are the words that an event can have as its condition, from the best to the worst, and "test".
func Conditions() []string {
	return []string{"mains", "on-battery", "low-battery", "going", conditionTest}
}

const (
	maxSources    = 16
	maxSource     = 64
	maxDetail     = 256
	maxRuntime    = 365 * 24 * time.Hour
	defaultSource = "default"
)

// word is the last that a source has said. Once it is stale, only its place in the order counts.
type word struct {
	condition pod.Condition
	detail    string
	runtime   time.Duration // negative: unknown
	charge    float64       // negative: unknown
	since     time.Time     // of condition, by our clock
	expires   time.Time     // zero: never

	heard    time.Time
	at       time.Time // by the source's clock, the last it gave
	sequence uint64    // the last it gave
}

// valid tells whether the word still counts.
func (o *word) valid(now time.Time) bool { return o.expires.IsZero() || now.Before(o.expires) }

// check finds what an event must not say. It fills in the source.
func (e *Event) check() error {
	if _, known := conditions[e.Condition]; !known && e.Condition != conditionTest {
		return fmt.Errorf("%w: condition is %q: want one of %q", ErrInvalid, e.Condition, Conditions())
	}
	if r := e.Runtime; r != nil && !(*r >= 0 && *r <= maxRuntime.Seconds()) {
		return fmt.Errorf("%w: runtime_s is %v: want 0 to %v", ErrInvalid, *r, maxRuntime.Seconds())
	}
	if c := e.Charge; c != nil && !(*c >= 0 && *c <= 100) {
		return fmt.Errorf("%w: charge is %v: want 0 to 100", ErrInvalid, *c)
	}
	if e.Source == "" {
		e.Source = defaultSource
	}
	return errors.Join(checkText("source", e.Source, maxSource), checkText("detail", e.Detail, maxDetail))
}

// checkText lets through what can be shown on a terminal.
func checkText(field, text string, most int) error {
	if len(text) > most {
		return fmt.Errorf("%w: %s has %d bytes: at most %d", ErrInvalid, field, len(text), most)
	}
	for _, r := range text {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return fmt.Errorf("%w: %s has characters that cannot be printed", ErrInvalid, field)
		}
	}
	return nil
}

// Accept takes an event, whoever was found to be authorised to send it. It may be called from any goroutine. An event
// that is accepted is in the next report.
func (w *Watcher) Accept(e Event) (Answer, error) {
	if err := e.check(); err != nil {
		return Answer{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running {
		return Answer{}, ErrNotRunning
	}
	now := time.Now()
	last := w.words[e.Source]
	if err := e.checkOrder(last, now, w.config.MaxAge); err != nil {
		return Answer{}, err
	}
	if e.Condition != conditionTest {
		if last == nil {
			if err := w.makeRoom(now); err != nil {
				return Answer{}, err
			}
		}
		w.words[e.Source] = e.word(last, now, w.config)
		w.poke()
	}
	known, _ := w.mergeLocked(now)
	return Answer{Condition: known.Condition.String(), Expires: w.config.StaleAfter.Seconds()}, nil
}

// checkOrder compares what the event says of its place with the last of its source, nil for none, and the clock.
func (e *Event) checkOrder(last *word, now time.Time, maxAge time.Duration) error {
	if e.At != nil {
		if off := now.Sub(*e.At); off > maxAge || off < -maxAge {
			return fmt.Errorf("%w: at is %v off this host's clock: at most %v: set the clocks, or max_age",
				ErrOutOfOrder, off.Round(time.Second), maxAge)
		}
	}
	if last == nil {
		return nil
	}
	if e.At != nil && !last.at.IsZero() {
		if e.At.Before(last.at) || e.At.Equal(last.at) && e.Sequence <= last.sequence {
			return fmt.Errorf("%w: at is %v, and %s has spoken at %v", ErrOutOfOrder,
				e.At.Format(time.RFC3339Nano), e.Source, last.at.Format(time.RFC3339Nano))
		}
		return nil // a source that begins to count anew has a later time
	}
	if e.Sequence != 0 && e.Sequence <= last.sequence {
		return fmt.Errorf("%w: sequence is %d, and %s has sent %d", ErrOutOfOrder, e.Sequence, e.Source, last.sequence)
	}
	return nil
}

// word is what remains of an event.
func (e *Event) word(last *word, now time.Time, c Config) *word {
	o := &word{condition: conditions[e.Condition], detail: e.Detail, runtime: -1, charge: -1, since: now, heard: now}
	if last != nil {
		o.at, o.sequence = last.at, last.sequence
	}
	if e.Sequence != 0 {
		o.sequence = e.Sequence
	}
	if e.At != nil {
		o.at = *e.At
		o.since = now.Add(-max(0, now.Sub(*e.At))) // with our monotonic reading
	}
	if last != nil && last.condition == o.condition && last.valid(now) {
		o.since = last.since
	}
	if e.Runtime != nil {
		o.runtime = time.Duration(math.Round(*e.Runtime * float64(time.Second)))
	}
	if e.Charge != nil {
		o.charge = *e.Charge
	}
	if c.StaleAfter > 0 {
		o.expires = now.Add(c.StaleAfter)
	}
	return o
}

// makeRoom forgets the source that has been stale for longest if there are as many as may be. The lock is held.
func (w *Watcher) makeRoom(now time.Time) error {
	if len(w.words) < maxSources {
		return nil
	}
	oldest := ""
	for source, o := range w.words {
		if !o.valid(now) && (oldest == "" || o.heard.Before(w.words[oldest].heard)) {
			oldest = source
		}
	}
	if oldest == "" {
		return fmt.Errorf("%w: there are %d: use fewer names, or set stale_after so that old ones are forgotten", ErrTooMany, maxSources)
	}
	delete(w.words, oldest)
	return nil
}

// merge says what all sources say together, and when that will be stale; zero: never.
func (w *Watcher) merge(now time.Time) (known pod.Report, next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mergeLocked(now)
}

func (w *Watcher) mergeLocked(now time.Time) (known pod.Report, next time.Time) {
	known = pod.Report{Runtime: -1, Charge: -1, Detail: "no source speaks"}
	worst := ""
	for source, o := range w.words {
		if !o.valid(now) {
			continue
		}
		if !o.expires.IsZero() && (next.IsZero() || o.expires.Before(next)) {
			next = o.expires
		}
		if o.condition > pod.Mains && o.runtime >= 0 && (known.Runtime < 0 || o.runtime < known.Runtime) {
			known.Runtime = o.runtime
		}
		// Of two that say the same the first counts, by time and then by name.
		if b := w.words[worst]; b == nil || o.condition > b.condition ||
			o.condition == b.condition && (o.since.Before(b.since) || o.since.Equal(b.since) && source < worst) {
			worst = source
		}
	}
	if o := w.words[worst]; o != nil {
		known.Condition, known.At, known.Charge, known.Detail = o.condition, o.since, o.charge, worst
		if o.detail != "" {
			known.Detail += ": " + o.detail
		}
	}
	return known, next
}
