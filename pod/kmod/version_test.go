package kmod

import (
	"errors"
	"strings"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/kmod/abi"
)

func TestOlderModuleIsRefusedAndNewerTaken(t *testing.T) {
	if err := compatible(abi.Version - 1); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "rmmod nvh_pod") {
		t.Error(err)
	}
	for _, version := range []uint32{abi.Version, abi.Version + 1} {
		if err := compatible(version); err != nil {
			t.Error(err)
		}
	}
}
