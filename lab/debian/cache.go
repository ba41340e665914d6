package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// DefaultCache returns where downloads are kept between clones of the project: $NVH_CACHE, or nvh in the
// user's cache folder ($XDG_CACHE_HOME or ~/.cache).
func DefaultCache() (string, error) {
	if dir := os.Getenv("NVH_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache folder: %w: set NVH_CACHE", err)
	}
	return filepath.Join(dir, "nvh"), nil
}

// Lock takes an exclusive lock on path, which it creates with its folder, and returns the function that gives it
// back. The kernel gives it back too when the process ends, so a killed holder blocks nobody.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s, held by another process: %w", path, ctx.Err())
		case <-retry.C:
		}
	}
}

// Tree returns the folder cache/name/VERSION with unpacked packages. fill makes it: it is given an empty folder
// and returns the version. A tree that is there is returned at once, with no network and no apt. The tree
// appears whole or not at all, and two processes that ask at once make it once.
func Tree(ctx context.Context, cache, name string, fill func(ctx context.Context, apt *Apt, dir string) (version string, err error)) (string, error) {
	base := filepath.Join(cache, name)
	current := filepath.Join(base, "current")
	if dir, err := filepath.EvalSymlinks(current); err == nil {
		return dir, nil
	}
	unlock, err := Lock(ctx, filepath.Join(base, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if dir, err := filepath.EvalSymlinks(current); err == nil {
		return dir, nil
	}
	apt, err := OpenApt(ctx, cache)
	if err != nil {
		return "", err
	}
	defer apt.Close()
	work, err := os.MkdirTemp(base, "unfinished-*")
	if err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	version, err := fill(ctx, apt, work)
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", name, err)
	}
	return publish(base, current, work, version)
}

// publish moves a finished tree to its place and then points current at it.
func publish(base, current, work, version string) (string, error) {
	dir := filepath.Join(base, version)
	if err := os.RemoveAll(dir); err != nil { // of a run that died before it set current
		return "", fmt.Errorf("cache: %w", err)
	}
	if err := os.Rename(work, dir); err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	if err := os.RemoveAll(current); err != nil { // a link to a folder that was removed by hand
		return "", fmt.Errorf("cache: %w", err)
	}
	if err := os.Symlink(version, current); err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	return filepath.EvalSymlinks(current)
}
