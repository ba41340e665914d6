package nut

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

// errParted: the connection was ended by LOGOUT because nothing is left to save.
var errParted = errors.New("logged out")

// session is one connection, from dialling to its end. It tells whether upsd has answered all that was asked at first.
func (w *Watcher) session(ctx context.Context, report func(pod.Report)) (heard bool, err error) {
	c, err := w.connect(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	defer w.setLogin(false)
	tick := time.NewTicker(w.config.Interval)
	defer tick.Stop()
	for {
		if err := w.loginIfDue(ctx, c); err != nil {
			return heard, err
		}
		variables, err := c.variables(ctx, w.ups)
		switch {
		case err == nil:
			w.learned(read(variables), report)
		case silent(err):
			w.lost(w.explain(err), report)
		default:
			return heard, err
		}
		heard = true
		select {
		case <-ctx.Done():
			return heard, w.leave(c)
		case <-w.released:
			if left, err := w.part(ctx, c); left || err != nil {
				return heard, err
			}
		case <-tick.C:
		}
	}
}

// connect dials, encrypts and finds the UPS.
func (w *Watcher) connect(ctx context.Context) (*client, error) {
	config, err := w.config.tlsConfig(w.host)
	if err != nil {
		return nil, err
	}
	conn, err := w.dialInTime(ctx)
	if err != nil {
		return nil, err
	}
	c := newClient(conn, answerTimeout)
	err = c.starttls(ctx, w.config.TLS, config)
	if err == nil {
		err = w.find(ctx, c)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (w *Watcher) dialInTime(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	conn, err := w.dial(ctx, "tcp", w.address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}

func (w *Watcher) find(ctx context.Context, c *client) error {
	names, err := c.names(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, w.ups) }) {
		return fmt.Errorf("upsd on %s has no UPS %q (%s): %w", w.address, w.ups, among(names), unknownUPS)
	}
	return nil
}

// loginIfDue has upsd wait for us, unless it does so already or nothing is left to save. One that has parted logs in
// again when the UPS has recovered.
func (w *Watcher) loginIfDue(ctx context.Context, c *client) error {
	w.mu.Lock()
	due := w.config.User != "" && !w.loginOK && !w.parted
	w.mu.Unlock()
	if !due {
		return nil
	}
	if err := w.login(ctx, c); err != nil {
		return err
	}
	w.setLogin(true)
	return nil
}

func (w *Watcher) login(ctx context.Context, c *client) error {
	password, err := w.config.password()
	if err != nil {
		return err
	}
	return c.login(ctx, w.config.User, password, w.ups)
}

func (w *Watcher) setLogin(ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loginOK = ok
}

// part logs out if upsd waits for us and nothing is left to save.
func (w *Watcher) part(ctx context.Context, c *client) (left bool, err error) {
	w.mu.Lock()
	due := w.loginOK && w.parted
	w.mu.Unlock()
	if !due {
		return false, nil
	}
	if err := c.logout(ctx); err != nil {
		return false, err
	}
	return true, errParted
}

// leave says good-bye at the end of Run, so that upsd does not log a client that broke off. If it fails, closing the
// connection does as well.
func (w *Watcher) leave(c *client) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	return c.logout(ctx)
}
