package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// UseWebhook says who hears what Announce is told. It is called before the API is served; the watcher has to run.
func (h *Host) UseWebhook(w *webhook.Watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.webhook = w
}

// Announce passes on what somebody who may use the API says of the power, as the webhook does what comes over the
// network. What becomes of it is decided as for any detector that leaves time.
func (h *Host) Announce(_ context.Context, e webhook.Event) (webhook.Answer, error) {
	h.mu.Lock()
	w := h.webhook
	h.mu.Unlock()
	if w == nil {
		return webhook.Answer{}, vm.WithRemedy(fmt.Errorf("the webhook: %w", vm.ErrNotFound),
			"Configure it in nvhd.toml; without listen it hears this command alone.")
	}
	a, err := w.Accept(e)
	switch {
	case errors.Is(err, webhook.ErrInvalid):
		err = fmt.Errorf("%w: %w", vm.ErrInvalid, err)
	case err != nil: // out of order, too many, not running
		err = fmt.Errorf("%w: %w", vm.ErrState, err)
	}
	return a, err
}
