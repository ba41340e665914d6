package nut

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// TLS is when the connection is encrypted.
type TLS string

// The policies of encryption.
const (
	TLSOffered  TLS = "offered"  // if upsd offers it; its certificate is not verified
	TLSRequired TLS = "required" // always, and the certificate is verified
	TLSOff      TLS = "off"      // never
)

// Config is what an operator sets of one UPS. Its keys are explained in the package comment.
type Config struct {
	UPS          string        `toml:"ups"`
	User         string        `toml:"user"`
	PasswordFile string        `toml:"password_file"`
	TLS          TLS           `toml:"tls"`
	CAFile       string        `toml:"ca_file"`
	Interval     time.Duration `toml:"interval"`
}

// Defaults, and what an interval may be.
const (
	DefaultPort     = "3493"
	DefaultInterval = time.Second
	MinInterval     = 100 * time.Millisecond
	MaxInterval     = 30 * time.Second
)

// complete fills in what is not set and checks the rest.
func (c *Config) complete() error {
	if c.TLS == "" {
		c.TLS = TLSOffered
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	return errors.Join(c.checkUser(), c.checkTLS(), c.checkInterval())
}

// target takes NAME@HOST:PORT apart.
func (c *Config) target() (ups, host, port string, err error) {
	ups, at, _ := strings.Cut(c.UPS, "@")
	host, port = at, DefaultPort
	if h, p, err := net.SplitHostPort(at); err == nil {
		host, port = h, p
	} else if strings.HasPrefix(at, "[") && strings.HasSuffix(at, "]") {
		host = at[1 : len(at)-1]
	} else if strings.Contains(at, ":") && net.ParseIP(at) == nil {
		return "", "", "", fmt.Errorf("ups = %q: %q is no address: write NAME@HOST, NAME@HOST:PORT or NAME@[ADDRESS]:PORT", c.UPS, at)
	}
	if host == "" {
		host = "localhost"
	}
	if ups == "" || strings.ContainsAny(ups, " \t\"\\") || strings.ContainsAny(host, " \t\"\\@") {
		return "", "", "", fmt.Errorf("ups = %q: write NAME@HOST, as in upsmon.conf; `upsc -l HOST` lists the names", c.UPS)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", "", fmt.Errorf("ups = %q: %q is no port: write a number between 1 and 65535, or none for %s", c.UPS, port, DefaultPort)
	}
	return ups, host, port, nil
}

func (c *Config) checkUser() error {
	switch {
	case c.User == "" && c.PasswordFile == "":
		return nil
	case c.User == "":
		return errors.New("password_file is set and user is not: set the user that upsd.users has that password for")
	case c.PasswordFile == "":
		return fmt.Errorf("user = %q has no password: put it into a file of its own and name that in password_file", c.User)
	}
	_, err := c.password()
	return err
}

// password is read for each connection, so a new one needs no restart.
func (c *Config) password() (string, error) {
	if !filepath.IsAbs(c.PasswordFile) {
		return "", fmt.Errorf("password_file = %q: give an absolute path", c.PasswordFile)
	}
	info, err := os.Stat(c.PasswordFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("password_file: %w: write the password that upsd.users has for user %q into it, and chmod 600 it", err, c.User)
	case err != nil:
		return "", fmt.Errorf("password_file: %w", err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("password_file %s is not a file: name one that holds nothing but the password", c.PasswordFile)
	case info.Mode().Perm()&0o007 != 0:
		return "", fmt.Errorf("password_file %s is open to everybody: chmod 600 it", c.PasswordFile)
	}
	content, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	password, _, _ := strings.Cut(string(content), "\n")
	password = strings.TrimSuffix(password, "\r")
	if password == "" {
		return "", fmt.Errorf("password_file %s begins with an empty line: its first line is the password", c.PasswordFile)
	}
	if _, err := join([]string{password}); err != nil {
		return "", fmt.Errorf("password_file %s: %w: its first line is the password", c.PasswordFile, err)
	}
	return password, nil
}

func (c *Config) checkTLS() error {
	switch {
	case c.TLS != TLSOffered && c.TLS != TLSRequired && c.TLS != TLSOff:
		return fmt.Errorf("tls = %q: write %q, %q or %q", c.TLS, TLSOffered, TLSRequired, TLSOff)
	case c.CAFile != "" && c.TLS != TLSRequired:
		return fmt.Errorf("ca_file is set, but with tls = %q nothing is verified: set tls = %q, or leave ca_file out", c.TLS, TLSRequired)
	case c.CAFile != "" && !filepath.IsAbs(c.CAFile):
		return fmt.Errorf("ca_file = %q: give an absolute path", c.CAFile)
	}
	_, err := c.tlsConfig("")
	return err
}

func (c *Config) checkInterval() error {
	if c.Interval < MinInterval || c.Interval > MaxInterval {
		return fmt.Errorf("interval = %q: write one between %v and %v; a second or two is right for most", c.Interval, MinInterval, MaxInterval)
	}
	return nil
}
