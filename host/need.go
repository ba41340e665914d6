package host

import (
	"slices"
	"sync"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/outage"
)

// need is how long a save of all VMs takes, by the saves that there have been.
type need struct {
	mu     sync.Mutex
	recent []time.Duration // the latest last
}

const (
	// unmeasured is assumed before there was a save: the saver gives up after that time.
	unmeasured = 10 * time.Second
	// remembered is how many saves are looked back upon.
	remembered = 20
)

func newNeed(store *outage.Store) *need {
	n := &need{}
	list, _ := store.List() // what cannot be read is no measurement
	for _, t := range slices.Backward(list) {
		if t.Kind == "outage" || t.Kind == "suspend" {
			n.add(t.Duration.Duration())
		}
	}
	return n
}

func (n *need) add(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.recent = append(n.recent, d)
	n.recent = n.recent[max(0, len(n.recent)-remembered):]
}

// longest is the longest of the latest saves.
func (n *need) longest() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.recent) == 0 {
		return unmeasured
	}
	return slices.Max(n.recent)
}
