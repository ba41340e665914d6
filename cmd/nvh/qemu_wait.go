package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/api"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

const (
	// daemonGone is how long a daemon may be away while its VMs go on.
	daemonGone = time.Minute
	// askAgain is the pause before a daemon that is away is asked again.
	askAgain = 500 * time.Millisecond
)

// hasProcess tells whether a VM in this state has a QEMU, or will have one.
func hasProcess(s vm.State) bool {
	switch s {
	case vm.Starting, vm.Running, vm.Paused, vm.Saving, vm.Restoring:
		return true
	}
	return false
}

// waitForEnd waits until the VM has no QEMU any more. A restart of the daemon
// in between is waited for: its VMs go on.
func waitForEnd(ctx context.Context, client *api.Client, watch *api.EventStream, name string) (vm.Info, error) {
	for {
		info, err := infoPatiently(ctx, client, name)
		if err != nil || !hasProcess(info.State) {
			return info, err
		}
		if nextOf(watch, name) == nil {
			continue
		}
		if ctx.Err() != nil {
			return info, ctx.Err()
		}
		if watch, err = eventsPatiently(ctx, client); err != nil {
			return info, err
		}
		defer watch.Close() // one a restart of the daemon: they are few
	}
}

// nextOf waits for an event that can concern the VM, or the end of the stream.
func nextOf(watch *api.EventStream, name string) error {
	for {
		e, err := watch.Next()
		if err != nil || e.VM == name || e.Type == api.EventGap {
			return err
		}
	}
}

func infoPatiently(ctx context.Context, client *api.Client, name string) (info vm.Info, err error) {
	err = patiently(ctx, func() error {
		info, err = client.Info(ctx, name)
		return err
	})
	return info, err
}

func eventsPatiently(ctx context.Context, client *api.Client) (stream *api.EventStream, err error) {
	err = patiently(ctx, func() error {
		stream, err = client.Events(ctx, nil)
		return err
	})
	return stream, err
}

// patiently repeats ask while the daemon is away.
func patiently(ctx context.Context, ask func() error) error {
	for since := time.Now(); ; {
		err := ask()
		if !errors.Is(err, api.ErrUnreachable) || time.Since(since) > daemonGone {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(askAgain):
		}
	}
}

// differences names the fields in which a command line differs from the VM's
// definition. What the command line leaves to the daemon is no difference.
func differences(info vm.Info, wanted vm.Definition) []string {
	var found []string
	if info.Volatile {
		found = append(found, "it is volatile")
	}
	if wanted.Pool != "" && wanted.Pool != info.Pool {
		found = append(found, fmt.Sprintf("pool is %s, not %s", info.Pool, wanted.Pool))
	}
	have, want := fieldsOf(info.Definition.Guest), fieldsOf(wanted.Guest)
	keys := maps.Clone(have)
	maps.Copy(keys, want)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if have[key] != want[key] {
			found = append(found, fmt.Sprintf("%s is %s, not %s", key, orNothing(have[key]), orNothing(want[key])))
		}
	}
	return found
}

// fieldsOf returns a guest's fields as JSON texts, by their names in the API.
func fieldsOf(g qemu.Guest) map[string]string {
	g.CPUs = max(g.CPUs, 1)
	text, _ := json.Marshal(g) // sizes, strings and numbers: it cannot fail
	fields := map[string]json.RawMessage{}
	json.Unmarshal(text, &fields)
	texts := map[string]string{}
	for key, value := range fields {
		texts[key] = string(value)
	}
	return texts
}

func orNothing(s string) string {
	if s == "" {
		return "not given"
	}
	return s
}
