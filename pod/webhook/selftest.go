package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// test sends the event "test" as a source would.
func (e *entry) test(ctx context.Context) error {
	addr := e.listensAt()
	if addr == nil {
		return fmt.Errorf("nothing listens on %s: %s", e.address, e.watcher.Health().Error)
	}
	body, err := json.Marshal(Event{Condition: conditionTest})
	if err != nil {
		return err
	}
	scheme, client := "http", e.client(addr)
	defer client.CloseIdleConnections()
	if e.tls != nil {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+addr.String()+Path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+e.secret)
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the own listener: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		return fmt.Errorf("the own listener answered %s: %s", resp.Status, bytes.TrimSpace(said))
	}
	return nil
}

// client talks to the own listener, on loopback where that listens everywhere.
func (e *entry) client(addr net.Addr) *http.Client {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, reachable(addr))
	}}
	if e.tls != nil {
		// Which name clients use is not known here, so the certificate is compared with the configured one instead.
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, VerifyConnection: e.isOwn}
	}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// isOwn checks that the listener shows the configured certificate, and that clients can still take it.
func (e *entry) isOwn(s tls.ConnectionState) error {
	leaf := s.PeerCertificates[0]
	if !bytes.Equal(leaf.Raw, e.tls.Certificates[0].Certificate[0]) {
		return errors.New("another certificate than the configured one was shown: another program answers there")
	}
	if now := time.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return fmt.Errorf("the certificate is valid from %v to %v: renew it and restart nvhd",
			leaf.NotBefore.Format(time.DateOnly), leaf.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// reachable is an address at which a listener on all addresses is reached.
func reachable(addr net.Addr) string {
	tcp := *addr.(*net.TCPAddr)
	if tcp.IP.IsUnspecified() {
		if tcp.IP.To4() != nil {
			tcp.IP = net.IPv4(127, 0, 0, 1)
		} else {
			tcp.IP = net.IPv6loopback
		}
	}
	return tcp.String()
}
