package apitest

import (
	"context"
	"slices"

	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
)

// announcements are what the host was told of the power, guarded by its lock.
type announcements []webhook.Event

// Announce accepts what is not "test", in the words it was told.
func (h *Host) Announce(ctx context.Context, e webhook.Event) (webhook.Answer, error) {
	err := h.begin(ctx, "Announce", e.Source)
	defer h.mu.Unlock()
	if err != nil {
		return webhook.Answer{}, err
	}
	if e.Condition != "test" {
		h.announced = append(h.announced, e)
	}
	return webhook.Answer{Condition: e.Condition, Expires: 90}, nil
}

// Announced returns what was accepted.
func (h *Host) Announced() []webhook.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.announced)
}
