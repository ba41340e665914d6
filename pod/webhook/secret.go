package webhook

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

const (
	minToken = 16
	maxToken = 512
)

// makeToken is the remedy for every token that is missing or will not do.
const makeToken = "make one with: (umask 077; head -c 32 /dev/urandom | base64 > FILE)"

// readToken reads the bearer token, and refuses a file that others than its owner can use.
func readToken(path string) (string, error) {
	content, err := readPrivate(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("token_file: %w: %s", err, makeToken)
	}
	if err != nil {
		return "", fmt.Errorf("token_file: %w", err)
	}
	token := strings.TrimSuffix(content, "\n")
	if len(token) < minToken || len(token) > maxToken {
		return "", fmt.Errorf("token_file: the token in %s has %d characters: want %d to %d: %s", path, len(token), minToken, maxToken, makeToken)
	}
	for _, c := range []byte(token) {
		if c <= ' ' || c > '~' {
			return "", fmt.Errorf("token_file: %s has a character that no header can carry, or more than one line: %s", path, makeToken)
		}
	}
	return token, nil
}

// readPrivate reads a file that only its owner, root or our own user, may read or write.
func readPrivate(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a plain file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("%s has mode %#o, so others can use it: chmod 600 %s", path, mode, path)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 && int(owner) != os.Geteuid() {
		return "", fmt.Errorf("%s belongs to user %d, who could change it: chown root %s", path, owner, path)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxToken+2))
	return string(content), err
}

// loadTLS reads the certificate and the key. That they belong together is checked here.
func loadTLS(certificate, key string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w: both are PEM files, the certificate with its chain", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}, nil
}
