package webhook

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// tries are how many wrong tokens an address has at once.
	tries = 10
	// forgiven is how long it takes until it has one more.
	forgiven = 6 * time.Second
	// maxAddresses bounds what is remembered. When as many guess at once, all others are let through to be compared: to
	// forget a guesser makes guessing cheaper, to block the rest would let guessers silence a BMC.
	maxAddresses = 4096
)

// guesses counts wrong tokens by address. It is safe for concurrent use.
type guesses struct {
	mu sync.Mutex
	// until says for each address when all its wrong tokens are forgiven: each adds forgiven to it.
	until map[netip.Prefix]time.Time
}

func (g *guesses) init() { g.until = map[netip.Prefix]time.Time{} }

// blocked returns how long the address must wait, 0 for not at all.
func (g *guesses) blocked(from netip.Prefix, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	until, known := g.until[from]
	if !known {
		return 0
	}
	return max(0, until.Sub(now)-(tries-1)*forgiven)
}

// wrong counts a wrong token.
func (g *guesses) wrong(from netip.Prefix, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.until[from]; !known && len(g.until) >= maxAddresses {
		for a, until := range g.until {
			if !until.After(now) {
				delete(g.until, a)
			}
		}
		if len(g.until) >= maxAddresses {
			return
		}
	}
	until := g.until[from]
	if until.Before(now) {
		until = now
	}
	g.until[from] = until.Add(forgiven)
}
