// Package webhook is the detector for whoever can send an HTTP request: a BMC, the building's management, a script.
//
//	POST /v1/pod/event
//	Authorization: Bearer TOKEN
//
//	{"condition":"on-battery","runtime_s":300,"charge":80,"detail":"feed A lost","source":"bmc-7","at":"2026-11-24T20:00:00Z"}
//
// It is served on a listener of its own, if one is configured, and on nvhd's unix socket, where the kernel says who asks
// and no token is needed (nvh pod event). Both feed the same Watcher.
//
// # Fields
//
//   - condition, required: mains, on-battery, low-battery, going (the host will go down whatever the power does), or test,
//     which is checked like any other and announces nothing.
//   - runtime_s: seconds that the battery lasts, 0 to 31536000. charge: percent, 0 to 100. detail: at most 256 bytes
//     for operators to read.
//   - source: who speaks, at most 64 bytes, "default" if it is missing. Each source is remembered apart, at most 16. The worst
//     that one of them says counts, with the least runtime that a source without mains gives.
//   - at: when it happened (RFC 3339). It must be within MaxAge of this host's clock, and later than the last one of
//     its source.
//   - sequence: a number above 0. Without at it must be higher than the last one of its source since nvhd started; with at
//     it orders events of one time, and a source may count anew after a restart.
//
// At and sequence keep a request that was held up or repeated on the way from undoing a later one. With neither,
// requests count in the order in which they arrive.
//
// The body is strict JSON of at most 4 KiB: an unknown field or a key given twice is an error. The answer is
// {"condition":"on battery","expires_s":90}: what all sources together say now, and within how many seconds this source must speak
// again; or {"error":{"code":…,"message":…}} with status 400 (invalid), 401 (no or a wrong token), 404, 405, 409
// (out_of_order, too_many_sources), 413 (too_large), 429 (too many wrong tokens) or 503 (not_running).
//
// # Silence
//
// With StaleAfter a source must repeat its word that often. One that does not is forgotten; when no source is
// left, the condition is unknown. Without StaleAfter a word holds until the next of its source. Words do not outlive
// nvhd: whoever speaks only once should be asked again after a start.
//
// # Hostile clients
//
// A token is compared in constant time. After ten wrong ones an IPv4 address, or an IPv6 /64, gets 429 without a
// comparison, and one further attempt every 6 s; right tokens of others are not held up. Nothing but the
// token is looked at before it was right. Header and body together must arrive within 10 s; 32 connections are open at most.
// HTTP/1.1 only; TLS 1.2 at least. Without a certificate only a loopback address is listened on.
//
// # Configuration
//
//	listen      = "192.0.2.7:8843"        # address and port; empty: only the unix socket
//	certificate = "/etc/nvh/webhook.crt"  # PEM, with the chain; needed unless listen is a loopback address
//	key         = "/etc/nvh/webhook.key"  # PEM
//	token_file  = "/etc/nvh/webhook.token"  # one line, 16 to 512 printable characters; mode 0600; needed with listen
//	stale_after = "90s"                   # 1s to 24h; "0s": never
//	max_age     = "1m"                    # of at, 1s to 1h
//
// Token, certificate and key are read when nvhd starts.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// Config says where and whom to listen to.
type Config struct {
	Listen      string        `toml:"listen"`      // host:port; empty: no listener
	Certificate string        `toml:"certificate"` // path of a PEM file
	Key         string        `toml:"key"`         // path of a PEM file
	TokenFile   string        `toml:"token_file"`  // path of the bearer token
	StaleAfter  time.Duration `toml:"stale_after"` // how long a word holds; 0: until the next
	MaxAge      time.Duration `toml:"max_age"`     // how far "at" may be from this clock; 0: a minute
}

// Watcher takes events. It implements pod.Watcher, in the battery tier.
type Watcher struct {
	config Config
	entry  *entry // nil without a listener
	log    pod.Logbook

	mu      sync.Mutex
	running bool
	words   map[string]*word // by source
	news    chan struct{}    // made ready by a word, and by a change of the listener
	deaf    error            // why the listener does not listen
}

var _ pod.Watcher = (*Watcher)(nil)

// New checks a configuration and reads the token and the certificate.
func New(c Config) (*Watcher, error) {
	if c.StaleAfter != 0 && (c.StaleAfter < time.Second || c.StaleAfter > 24*time.Hour) {
		return nil, fmt.Errorf("webhook: stale_after = %q: choose 1s to 24h, or 0s for never", c.StaleAfter)
	}
	if c.MaxAge == 0 {
		c.MaxAge = time.Minute
	}
	if c.MaxAge < time.Second || c.MaxAge > time.Hour {
		return nil, fmt.Errorf("webhook: max_age = %q: choose 1s to 1h", c.MaxAge)
	}
	w := &Watcher{config: c, words: map[string]*word{}, news: make(chan struct{}, 1)}
	if c.Listen == "" {
		if c.Certificate != "" || c.Key != "" || c.TokenFile != "" {
			return nil, errors.New("webhook: certificate, key and token_file are of no use without listen: set listen, or remove them")
		}
		return w, nil
	}
	var err error
	if w.entry, err = newEntry(c, w); err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	return w, nil
}

// Name implements pod.Watcher.
func (w *Watcher) Name() string {
	if w.config.Listen == "" {
		return "webhook"
	}
	return "webhook " + w.config.Listen
}

// Tier implements pod.Watcher.
func (w *Watcher) Tier() pod.Tier { return pod.Battery }

// Health implements pod.Watcher. A watcher is connected while it can be spoken to and, with StaleAfter, somebody does.
func (w *Watcher) Health() pod.Health { return w.log.Health() }

// Run implements pod.Watcher. It reports nothing before the first event.
func (w *Watcher) Run(ctx context.Context, report func(pod.Report)) {
	ctx, cancel := context.WithCancel(ctx)
	var listening sync.WaitGroup
	defer listening.Wait()
	defer cancel()
	if w.entry != nil {
		w.setDeaf(errors.New("not listening yet"))
		listening.Go(func() { w.entry.listen(ctx) })
	}
	w.setRunning(true)
	defer w.setRunning(false)
	news := w.log.Reporter(report)
	for spoken := false; ; {
		now := time.Now()
		known, next := w.merge(now)
		spoken = spoken || known.Condition != pod.Unknown
		w.noteHealth(known)
		if spoken {
			news.Tell(known)
		}
		var expiry <-chan time.Time
		if !next.IsZero() {
			expiry = time.After(next.Sub(now))
		}
		select {
		case <-w.news:
		case <-expiry:
		case <-ctx.Done():
			return
		}
	}
}

func (w *Watcher) setRunning(running bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = running
}

// setDeaf notes why nothing can be heard over the network; nil if it can.
func (w *Watcher) setDeaf(why error) {
	w.mu.Lock()
	w.deaf = why
	w.mu.Unlock()
	w.poke()
}

func (w *Watcher) poke() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (w *Watcher) noteHealth(known pod.Report) {
	w.mu.Lock()
	deaf := w.deaf
	w.mu.Unlock()
	switch {
	case deaf != nil:
		w.log.Lost(deaf)
	case w.config.StaleAfter > 0 && known.Condition == pod.Unknown:
		w.log.Lost(fmt.Errorf("no source has spoken for %v: see that it repeats its event, or set stale_after to 0s", w.config.StaleAfter))
	default:
		w.log.Connected()
	}
}

// Test implements pod.Watcher. It sends the event "test" to the listener, with the token and over TLS, as a source does;
// without a listener it only sees that events are taken.
func (w *Watcher) Test(ctx context.Context) error {
	if w.entry != nil {
		return w.entry.test(ctx)
	}
	_, err := w.Accept(Event{Condition: conditionTest})
	return err
}
