package nut

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// watch runs a watcher of a fake server in a bubble with a fake clock.
func watch(t *testing.T, config Config, test func(t *testing.T, f *fake, w *listener)) {
	t.Helper()
	if config.User != "" {
		config.PasswordFile = filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(config.PasswordFile, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		w := run(t, f.watcher(config))
		synctest.Wait()
		test(t, f, w)
		w.stop()
		f.serving.Wait()
	})
}

// settled lets what is due happen, and returns the last report since it was called last, or nil.
func (l *listener) settled(after time.Duration) *pod.Report {
	time.Sleep(after)
	synctest.Wait()
	var last *pod.Report
	for {
		select {
		case r := <-l.reports:
			last = &r
		default:
			return last
		}
	}
}

// Whatever a server says that is not the protocol ends the connection, is named in the health, and does no harm.
func TestLies(t *testing.T) {
	const list = "LIST VAR u"
	good := "BEGIN LIST VAR u\nVAR u ups.status \"OB\"\nEND LIST VAR u\n"
	for _, test := range []struct {
		name, command, answer string
		says                  []string
	}{
		{"hangs up", list, hangUp, []string{"EOF", "closed the connection"}},
		{"half a line", list, "BEGIN LIST VAR u\nVAR u ups.sta" + hangUp, []string{"ended within a line", "closed the connection"}},
		{"half a list", list, "BEGIN LIST VAR u\nVAR u ups.status \"OB\"\n" + hangUp, []string{"EOF"}},
		{"says nothing", list, mute, []string{"timeout", "firewall"}},
		{"stops in the list", list, "BEGIN LIST VAR u\nVAR u ups.status \"OB\"\n", []string{"timeout"}},
		{"a line without end", list, strings.Repeat("x", maxLine+1), []string{"more than 4096 bytes", "no upsd"}},
		{"an endless list", list, "BEGIN LIST VAR u\n" + strings.Repeat("VAR u a \"b\"\n", maxRows+1), []string{"more than 10000 rows"}},
		{"another protocol", "LIST UPS", "220 mail.example ESMTP\n", []string{"not the protocol of upsd", "220", "see what listens on fake:3493"}},
		{"an empty line", list, "\n", []string{"an empty line"}},
		{"control characters", list, "BEGIN LIST VAR u\nVAR u ups.status \"\x1b[2J\"\nEND LIST VAR u\n", []string{"control character"}},
		{"open quotes", list, "BEGIN LIST VAR u\nVAR u ups.status \"OB\nEND LIST VAR u\n", []string{"quoted word has no end"}},
		{"another UPS", list, "BEGIN LIST VAR v\nVAR v ups.status \"OB\"\nEND LIST VAR v\n", []string{"it begins with"}},
		{"another UPS's row", list, "BEGIN LIST VAR u\nVAR v ups.status \"OB\"\nEND LIST VAR u\n", []string{"in between"}},
		{"another list", list, "BEGIN LIST RW u\nEND LIST RW u\n", []string{"it begins with"}},
		{"no list", list, "VAR u ups.status \"OB\"\n", []string{"it begins with"}},
		{"a row too short", list, "BEGIN LIST VAR u\nVAR u\nEND LIST VAR u\n", []string{"in between"}},
		{"a row without value", list, "BEGIN LIST VAR u\nVAR u ups.status\nEND LIST VAR u\n", []string{"1 words where"}},
		{"a row too long", list, "BEGIN LIST VAR u\nVAR u ups.status OB LB\nEND LIST VAR u\n", []string{"3 words where"}},
		{"a new error", list, "ERR LP0-ON-FIRE\n", []string{"LP0-ON-FIRE"}},
		{"an error without code", list, "ERR\n", []string{"it begins with"}},
		{"no such UPS any more", list, "ERR UNKNOWN-UPS\n", []string{"ups.conf"}},
		{"no UPS at all", "LIST UPS", "BEGIN LIST UPS\nEND LIST UPS\n", []string{"it has none", "ups.conf"}},
		{"a login that is not OK", "LOGIN u", "MAYBE\n", []string{"instead of OK"}},
		{"STARTTLS with more behind it", "STARTTLS", "OK STARTTLS\nOK\n", []string{"more follows in clear"}},
		{"STARTTLS and no TLS", "STARTTLS", "OK STARTTLS\n", []string{"STARTTLS: "}},
		{"STARTTLS that is maybe", "STARTTLS", "ERR LATER\n", []string{"LATER"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			watch(t, Config{User: "nvh"}, func(t *testing.T, f *fake, w *listener) {
				if r := w.settled(0); r == nil || r.Condition != pod.Mains {
					t.Fatalf("at first: %+v", r)
				}
				truth := f.answer(test.command, test.answer)
				if test.command != list {
					f.answer(list, hangUp) // so that it connects again
					w.settled(2 * time.Second)
				}
				r := w.settled(10 * time.Second)
				h := w.Health()
				if h.Connected || h.Last.Condition != pod.Unknown || r != nil && r.Condition != pod.Unknown {
					t.Errorf("report %+v, health %+v", r, h)
				}
				for _, says := range test.says {
					if !strings.Contains(h.Error, says) {
						t.Errorf("health %q, want it to say %q", h.Error, says)
					}
				}
				if strings.Contains(h.Error, "secret") {
					t.Errorf("health %q has the password", h.Error)
				}
				f.answer(test.command, cmp.Or(truth, "OK\n"))
				f.answer(list, good)
				if r := w.settled(longestPause + answerTimeout); r == nil || r.Condition != pod.OnBattery {
					t.Errorf("after the truth returned: %+v, %+v", r, w.Health())
				}
			})
		})
	}
}

// Attempts to connect come after 250 ms, 500 ms and so on up to 5 s, and quickly again once there was a connection.
func TestBackOff(t *testing.T) {
	watch(t, Config{}, func(t *testing.T, f *fake, w *listener) {
		f.setDown(true)
		f.answer("LIST VAR u", hangUp)
		if r := w.settled(time.Second); r == nil || r.Condition != pod.Unknown {
			t.Fatalf("no loss: %+v", r)
		}
		if r := w.settled(time.Minute); r != nil {
			t.Errorf("one loss is reported again: %+v", r)
		}
		var pauses []time.Duration
		at := f.dialled()[1:]
		for i := range at[1:] {
			pauses = append(pauses, at[i+1].Sub(at[i]))
		}
		want := []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, longestPause, longestPause}
		for i, pause := range want {
			if pauses[i] != pause {
				t.Fatalf("pauses %v, want %v", pauses[:len(want)], want)
			}
		}
		f.setDown(false)
		f.variables(`ups.status "OL"`)
		if r := w.settled(longestPause); r == nil || r.Condition != pod.Mains {
			t.Fatalf("not back: %+v", r)
		}
		n := len(f.dialled())
		f.answer("LIST VAR u", hangUp)
		w.settled(2 * time.Second)
		lost, at := w.Health().Last.At, f.dialled()[n:]
		if at[0].Sub(lost) != firstPause || at[1].Sub(at[0]) != 2*firstPause {
			t.Errorf("lost at %v, dialled at %v: the pauses did not begin anew", lost, at)
		}
	})
}

// Only news are reported, all of them, with the time that the condition began.
func TestNews(t *testing.T) {
	watch(t, Config{}, func(t *testing.T, f *fake, w *listener) {
		first := w.settled(0)
		if first == nil || first.Condition != pod.Mains || first.Runtime >= 0 || first.Charge >= 0 {
			t.Fatalf("first: %+v", first)
		}
		if r := w.settled(time.Minute); r != nil {
			t.Errorf("nothing new: %+v", r)
		}
		if n := f.count("LIST VAR u"); n != 61 {
			t.Errorf("asked %d times in a minute", n)
		}
		for _, step := range []struct {
			status, charge string
			same           bool // condition
		}{{"OL CHRG", "50", true}, {"OL CHRG", "51", true}, {"OB", "51", false}, {"OB", "50", true}, {"OL", "50", false}} {
			before := w.Health().Last
			f.variables(`ups.status "`+step.status+`"`, `battery.charge "`+step.charge+`"`)
			r := w.settled(time.Second)
			if r == nil || r.Detail != step.status || r.At.Equal(before.At) != step.same {
				t.Errorf("%v: %+v after %+v", step, r, before)
			}
		}
		if n := len(f.dialled()); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// Stale data and a missing driver keep the connection and the login.
func TestSilentDriver(t *testing.T) {
	for _, code := range []Refusal{dataStale, driverNotConnected} {
		watch(t, Config{User: "nvh"}, func(t *testing.T, f *fake, w *listener) {
			f.answer("LIST VAR u", "ERR "+string(code)+"\n")
			w.settled(0)
			for range 3 {
				w.settled(time.Minute)
				if h := w.Health(); h.Connected || !strings.Contains(h.Error, string(code)) || !strings.Contains(h.Error, "upsdrvctl") {
					t.Errorf("%s: %+v", code, h)
				}
			}
			f.variables(`ups.status "OB LB"`)
			if r := w.settled(time.Second); r == nil || r.Condition != pod.LowBattery || r.Done == nil {
				t.Errorf("%s: then %+v", code, r)
			}
			if len(f.dialled()) != 1 || f.count("LOGIN u") != 1 {
				t.Errorf("%s: %d connections, %d logins", code, len(f.dialled()), f.count("LOGIN u"))
			}
		})
	}
}

// Done logs out once, the watcher listens on, and logs in again after the recovery; a Done from before it does nothing.
func TestDone(t *testing.T) {
	watch(t, Config{User: "nvh"}, func(t *testing.T, f *fake, w *listener) {
		expectLogins := func(in, out int) {
			t.Helper()
			if f.count("LOGIN u") != in || f.count("LOGOUT") != out {
				t.Errorf("%d logins and %d logouts, want %d and %d", f.count("LOGIN u"), f.count("LOGOUT"), in, out)
			}
		}
		f.variables(`ups.status "FSD OB LB"`)
		r := w.settled(time.Second)
		if r == nil || r.Condition != pod.Going || r.Done == nil {
			t.Fatalf("forced shutdown: %+v", r)
		}
		old := r.Done
		expectLogins(1, 0)
		old()
		old()
		w.settled(0) // at once, not at the next poll
		expectLogins(1, 1)
		w.settled(time.Minute)
		expectLogins(1, 1)
		if !w.Health().Connected || w.Health().Last.Condition != pod.Going {
			t.Errorf("after the logout: %+v", w.Health())
		}
		f.variables(`ups.status "FSD OB"`)
		if r := w.settled(time.Second); r == nil || r.Done != nil {
			t.Errorf("somebody waits though we have logged out: %+v", r)
		}
		f.variables(`ups.status "OL"`)
		w.settled(2 * time.Second)
		expectLogins(2, 1)
		f.variables(`ups.status "OB LB"`)
		if r = w.settled(time.Second); r == nil || r.Condition != pod.LowBattery || r.Done == nil {
			t.Fatalf("the second outage: %+v", r)
		}
		old()
		w.settled(time.Minute)
		expectLogins(2, 1)
		r.Done()
		w.settled(time.Second)
		expectLogins(2, 2)
	})
}

// Done while there is no connection keeps the next one from logging in.
func TestDoneWhileDisconnected(t *testing.T) {
	watch(t, Config{User: "nvh"}, func(t *testing.T, f *fake, w *listener) {
		f.variables(`ups.status "FSD OB LB"`)
		r := w.settled(time.Second)
		f.setDown(true)
		f.answer("LIST VAR u", hangUp)
		w.settled(2 * time.Second)
		r.Done()
		f.setDown(false)
		f.variables(`ups.status "FSD OB LB"`)
		if r := w.settled(time.Minute); r == nil || r.Condition != pod.Going || r.Done != nil {
			t.Errorf("connected again: %+v", r)
		}
		if n := f.count("LOGIN u"); n != 1 {
			t.Errorf("%d logins", n)
		}
	})
}

// A watcher that is stopped says good-bye, and does not wait for a server that says nothing.
func TestStop(t *testing.T) {
	for answer, least := range map[string]time.Duration{"OK Goodbye\n" + hangUp: 0, mute: leaveTimeout} {
		watch(t, Config{User: "nvh"}, func(t *testing.T, f *fake, w *listener) {
			f.answer("LOGOUT", answer)
			w.settled(time.Second)
			began := time.Now()
			w.stop()
			if took := time.Since(began); took != least || f.count("LOGOUT") != 1 {
				t.Errorf("LOGOUT %d times, and stopped after %v, want %v", f.count("LOGOUT"), took, least)
			}
			if h := w.Health(); h.Connected || h.Error != "no longer watched" {
				t.Errorf("health: %+v", h)
			}
		})
	}
	// Also while it waits for an answer, and between attempts to connect.
	watch(t, Config{}, func(t *testing.T, f *fake, w *listener) {
		f.answer("LIST VAR u", mute)
		w.settled(2 * time.Second)
		began := time.Now()
		w.stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("stopped after %v within a question", took)
		}
	})
	watch(t, Config{}, func(t *testing.T, f *fake, w *listener) {
		f.setDown(true)
		f.answer("LIST VAR u", hangUp)
		w.settled(time.Minute)
		began := time.Now()
		w.stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("stopped after %v between attempts", took)
		}
	})
}

// Test asks beside Run, and says what Run would meet.
func TestSelfTest(t *testing.T) {
	watch(t, Config{User: "nvh"}, func(t *testing.T, f *fake, w *listener) {
		f.answer("GET VAR u ups.status", "VAR u ups.status \"OB\"\n")
		if err := w.Test(t.Context()); err != nil {
			t.Error(err)
		}
		if f.count("LOGIN u") != 2 || f.count("LOGOUT") != 1 {
			t.Errorf("%d logins, %d logouts", f.count("LOGIN u"), f.count("LOGOUT"))
		}
		for answer, says := range map[string]string{
			"VAR u ups.status \"WAIT\"\n": "driver's log",
			"VAR u ups.load \"7\"\n":      "not the protocol",
			"VAR u ups.status\n":          "not the protocol",
			"ERR DATA-STALE\n":            "nut u@fake:3493: GET: upsd answers ERR DATA-STALE",
			mute:                          "firewall",
		} {
			f.answer("GET VAR u ups.status", answer)
			if err := w.Test(t.Context()); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%q: %v, want %q", answer, err, says)
			}
		}
		if r := w.settled(0); r == nil || r.Condition != pod.Mains {
			t.Errorf("a test has announced something: %+v", r)
		}
	})
}
