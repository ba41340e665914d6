package debian

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestSignedBy(t *testing.T) {
	const uri = "http://mirror.example/debian/"
	for name, tc := range map[string]struct{ content, want string }{
		"deb822":       {"# note\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nSigned-By: /k.gpg\n", "/k.gpg"},
		"second":       {"Types: deb\nURIs: http://other.example/\nSuites: bookworm\nSigned-By: /o.gpg\n\nTypes: deb\nURIs: " + uri + "\nSuites: bookworm\nSigned-By: /k.gpg\n", "/k.gpg"},
		"embedded key": {"Types: deb\nURIs: " + uri + "\nSuites: bookworm\nSigned-By:\n -----BEGIN\n .\n -----END\nComponents: main\n", "\n -----BEGIN\n .\n -----END"},
		"one line":     {"deb [arch=amd64 signed-by=/a.gpg,/b.gpg] http://mirror.example/debian bookworm main\n", "/a.gpg /b.gpg"},
		"no key":       {"deb http://mirror.example/debian bookworm main\n", ""},
		"other suite":  {"deb [signed-by=/a.gpg] http://mirror.example/debian trixie main\n", ""},
	} {
		if got := signedBy(tc.content, uri, Bookworm); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestLockExcludesAndEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "lock")
	unlock, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second Lock = %v, want a deadline", err)
	}
	unlock()
	again, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestDefaultCacheFollowsTheEnvironment(t *testing.T) {
	t.Setenv("NVH_CACHE", "/somewhere")
	if dir, err := DefaultCache(); err != nil || dir != "/somewhere" {
		t.Errorf("%s, %v", dir, err)
	}
	t.Setenv("NVH_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", "/caches")
	if dir, err := DefaultCache(); err != nil || dir != "/caches/nvh" {
		t.Errorf("%s, %v", dir, err)
	}
}

// The real archive: a small package arrives whole, once, however many ask.
func TestTreeIsMadeOnceAndWhole(t *testing.T) {
	cache := t.TempDir()
	var made atomic.Int32
	fill := func(ctx context.Context, apt *Apt, dir string) (string, error) {
		made.Add(1)
		if err := apt.Unpack(ctx, dir, Bookworm, "hostname"); err != nil {
			return "", err
		}
		return apt.Version(ctx, "hostname", Bookworm)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			dir, err := Tree(t.Context(), cache, "small", fill)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := os.Stat(filepath.Join(dir, "bin/hostname")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 {
		t.Errorf("made %d times", made.Load())
	}
}

func TestFailedTreeLeavesNothing(t *testing.T) {
	cache := t.TempDir()
	_, err := Tree(t.Context(), cache, "small", func(ctx context.Context, apt *Apt, dir string) (string, error) {
		return "", apt.Unpack(ctx, dir, Bookworm, "no-such-package-of-this-name")
	})
	if err == nil {
		t.Fatal("an unknown package was fetched")
	}
	left, _ := filepath.Glob(filepath.Join(cache, "small", "*"))
	if len(left) != 1 || filepath.Base(left[0]) != "lock" {
		t.Errorf("left behind: %v", left)
	}
}
