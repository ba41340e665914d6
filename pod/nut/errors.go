package nut

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// Refusal is upsd's answer ERR: its code, such as "ACCESS-DENIED", by RFC 9271 section 4.3.
type Refusal string

// Error implements error.
func (r Refusal) Error() string { return "upsd answers ERR " + string(r) }

// Refusals that something is done about.
const (
	accessDenied         Refusal = "ACCESS-DENIED"
	dataStale            Refusal = "DATA-STALE"
	driverNotConnected   Refusal = "DRIVER-NOT-CONNECTED"
	featureNotConfigured Refusal = "FEATURE-NOT-CONFIGURED"
	featureNotSupported  Refusal = "FEATURE-NOT-SUPPORTED"
	invalidArgument      Refusal = "INVALID-ARGUMENT"
	unknownCommand       Refusal = "UNKNOWN-COMMAND"
	unknownUPS           Refusal = "UNKNOWN-UPS"
)

// errProtocol: the other end is no upsd, or one that has gone mad.
var errProtocol = errors.New("not the protocol of upsd")

// silent tells that upsd is there and knows nothing of its UPS. The connection is kept: upsd is first to learn more.
func silent(err error) bool {
	return errors.Is(err, dataStale) || errors.Is(err, driverNotConnected)
}

// explain adds what an operator can do about an error.
func (w *Watcher) explain(err error) error {
	if remedy := w.remedy(err); remedy != "" {
		return fmt.Errorf("%w: %s", err, remedy)
	}
	return err
}

func (w *Watcher) remedy(err error) string {
	var refusal Refusal
	if errors.As(err, &refusal) {
		return w.remedyOfRefusal(refusal)
	}
	var (
		lookup    *net.DNSError
		timeout   net.Error
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("start upsd on %s, and have upsd.conf there LISTEN on this address and port", w.host)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "check the network; it must be on battery as well"
	case errors.As(err, &lookup):
		return "correct the host in `ups`, or give its address: names may not resolve in an outage"
	case errors.As(err, &authority):
		return fmt.Sprintf("give the certificate of the authority that signed upsd's in ca_file, now %q", w.config.CAFile)
	case errors.As(err, &name):
		return fmt.Sprintf("give upsd a certificate with the subjectAltName %s, or connect by the name that it has", w.host)
	case errors.As(err, &invalid):
		return "renew upsd's certificate, or set the clocks right"
	case errors.As(err, &record):
		return "upsd began TLS and does not speak it: restart it, or set tls = \"off\""
	case errors.Is(err, errProtocol):
		return fmt.Sprintf("see what listens on %s", w.address)
	case errors.Is(err, errTooLong):
		return fmt.Sprintf("that is no upsd: see what listens on %s", w.address)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errCut), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Sprintf("upsd has ended or closed the connection: see its log on %s; MAXCONN in upsd.conf may be too small", w.host)
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("check that %s is up, and that no firewall drops port %s", w.host, w.port)
	}
	return ""
}

func (w *Watcher) remedyOfRefusal(refusal Refusal) string {
	switch refusal {
	case accessDenied:
		return fmt.Sprintf("compare user %q and password_file with upsd.users on %s: it needs a section [%s] with the same password "+
			"and `upsmon secondary`; reload upsd after a change", w.config.User, w.host, w.config.User)
	case dataStale:
		return fmt.Sprintf("the driver of %s hangs or has lost its UPS: check the cable, then restart the driver on %s with upsdrvctl", w.ups, w.host)
	case driverNotConnected:
		return fmt.Sprintf("start the driver of %s on %s: upsdrvctl start %s", w.ups, w.host, w.ups)
	case unknownUPS:
		return fmt.Sprintf("correct the name in `ups`, or add [%s] to ups.conf on %s", w.ups, w.host)
	case featureNotConfigured, featureNotSupported:
		return "give upsd a certificate (CERTFILE or CERTPATH in upsd.conf), or set tls = \"offered\""
	case invalidArgument:
		return "correct the name in `ups`"
	}
	return ""
}

// among lists the names of UPSes for a message.
func among(names []string) string {
	if len(names) == 0 {
		return "it has none"
	}
	return "it has " + strings.Join(names, ", ")
}
