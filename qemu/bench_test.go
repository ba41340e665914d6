package qemu_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/qemu/qemutest"
	"github.com/nv-hypervisor/nv-hypervisor/qmp"
)

// BenchmarkSave is a prepared save of an idle machine, without its preparation:
// from sending "stop" to QEMU's "completed".
func BenchmarkSave(b *testing.B) {
	for _, binary := range qemutest.Binaries(b) {
		version, _, _ := strings.Cut(binary.Version, " ")
		b.Run(version, func(b *testing.B) {
			ctx := testContext(b)
			rt := newRuntime(b, small.Memory)
			p := start(b, pin(b, binary, small), rt)
			emergency, err := qmp.Dial(ctx, p.EmergencyPath())
			must(b, err)
			defer emergency.Close()
			state := memfd(b)
			var took time.Duration
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				uri, err := p.ArmFile(ctx, emergency, state)
				must(b, err)
				events := emergency.Subscribe()
				b.StartTimer()
				began := time.Now()
				stop := send(b, ctx, emergency, "stop", nil)
				migrate := send(b, ctx, emergency, "migrate", map[string]string{"uri": uri})
				must(b, stop.Wait(ctx, nil))
				must(b, migrate.Wait(ctx, nil))
				awaitCompleted(b, ctx, events)
				took += time.Since(began)
				b.StopTimer()
				events.Close()
				awaitPostmigrate(b, p)
				must(b, p.Cont(ctx))
				b.StartTimer()
			}
			b.ReportMetric(float64(took.Microseconds())/float64(b.N), "µs/save")
		})
	}
}

func awaitPostmigrate(t testing.TB, p *qemu.Process) {
	t.Helper()
	for status := ""; status != "postmigrate"; {
		var err error
		status, err = p.Status(testContext(t))
		must(t, err)
	}
}
