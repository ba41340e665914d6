package host

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

func TestAnnounce(t *testing.T) {
	var h Host
	_, err := h.Announce(t.Context(), webhook.Event{Condition: "mains"})
	if !errors.Is(err, vm.ErrNotFound) || !strings.Contains(vm.Remedy(err), "nvhd.toml") {
		t.Errorf("without a webhook: %v", err)
	}
	w, err := webhook.New(webhook.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h.UseWebhook(w)
	if _, err := h.Announce(t.Context(), webhook.Event{Condition: "mains"}); !errors.Is(err, vm.ErrState) || !errors.Is(err, webhook.ErrNotRunning) {
		t.Errorf("not running: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	reports := make(chan pod.Report, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx, func(r pod.Report) { reports <- r })
	}()
	defer func() { stop(); <-ended }()
	for deadline := time.Now().Add(10 * time.Second); w.Test(ctx) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the webhook does not run")
		}
	}
	answer, err := h.Announce(ctx, webhook.Event{Condition: "on-battery", Sequence: 7})
	if r := <-reports; err != nil || answer.Condition != "on battery" || r.Condition != pod.OnBattery {
		t.Errorf("%+v, %v, reported %+v", answer, err, r)
	}
	if _, err := h.Announce(ctx, webhook.Event{Condition: "mains", Sequence: 7}); !errors.Is(err, vm.ErrState) {
		t.Errorf("the same number again: %v", err)
	}
	if _, err := h.Announce(ctx, webhook.Event{Condition: "on fire"}); !errors.Is(err, vm.ErrInvalid) {
		t.Errorf("an unknown condition: %v", err)
	}
}
