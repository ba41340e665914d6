package pod_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		var at []time.Duration
		var lost []string
		pod.Backoff{First: time.Second, Longest: 4 * time.Second}.Repeat(ctx, func(reached func()) error {
			at = append(at, time.Since(begin)/time.Second)
			switch len(at) {
			case 5:
				reached()
			case 6:
				return nil // again at once
			case 8:
				cancel()
			}
			return errors.New(string(rune('a' + len(at) - 1)))
		}, func(err error) { lost = append(lost, err.Error()) })
		if want := []time.Duration{0, 1, 3, 7, 11, 12, 12, 14}; !slices.Equal(at, want) {
			t.Errorf("tried at %v, want %v", at, want)
		}
		if want := []string{"a", "b", "c", "d", "e", "g"}; !slices.Equal(lost, want) {
			t.Errorf("lost for %v, want %v", lost, want)
		}
	})
}

// The end comes at once, in the middle of a pause.
func TestBackoffEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		pod.Backoff{First: time.Hour, Longest: time.Hour}.Repeat(ctx, func(func()) error { return errors.New("gone") }, func(error) {})
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}
