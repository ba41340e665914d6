package logind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names on the bus, from org.freedesktop.login1(5) and the D-Bus specification.
const (
	login1      = "org.freedesktop.login1"
	manager     = login1 + ".Manager"
	managerPath = dbus.ObjectPath("/org/freedesktop/login1")

	theBus     = "org.freedesktop.DBus"
	theBusPath = dbus.ObjectPath("/org/freedesktop/DBus")
)

// answerTimeout is for a connection to be made, and for each answer.
const answerTimeout = 5 * time.Second

// bus is a connection to the system bus, on which logind is spoken to.
type bus struct {
	conn    *dbus.Conn
	signals chan *dbus.Signal // closed with the connection
	owner   string            // of the name login1, as of connecting: the sender of what logind announces
}

// connect subscribes before anything is asked, so nothing falls between.
func connect(ctx context.Context) (*bus, error) {
	connecting, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(answerTimeout, cancel)
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(connecting), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if !late.Stop() && err != nil {
		err = fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	b := &bus{conn: conn, signals: make(chan *dbus.Signal, 16)}
	conn.Signal(b.signals)
	// The end of the connection ends its context, which is all that cancel would do.
	context.AfterFunc(conn.Context(), cancel)
	return b, nil
}

func (b *bus) close() { b.conn.Close() }

// subscribe asks for what logind announces, and for news of logind itself.
func (b *bus) subscribe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return errors.Join(
		b.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(login1), dbus.WithMatchObjectPath(managerPath),
			dbus.WithMatchInterface(manager), dbus.WithMatchMember("PrepareForShutdown")),
		b.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(theBus), dbus.WithMatchObjectPath(theBusPath),
			dbus.WithMatchInterface(theBus), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, login1)))
}

// call asks an object, which the bus starts if it can.
func (b *bus) call(ctx context.Context, to string, path dbus.ObjectPath, method string, result any, arguments ...any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	err := b.conn.Object(to, path).CallWithContext(ctx, method, 0, arguments...).Store(result)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

// inhibit takes a delay inhibitor, which lasts until it is closed. A program that this one starts does not inherit it.
func (b *bus) inhibit(ctx context.Context) (*os.File, error) {
	var fd dbus.UnixFD
	err := b.call(ctx, login1, managerPath, manager+".Inhibit", &fd, "shutdown", "nvhd", "saving the virtual machines", "delay")
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "inhibitor"), nil
}

// findOwner notes who speaks for logind.
func (b *bus) findOwner(ctx context.Context) error {
	return b.call(ctx, theBus, theBusPath, theBus+".GetNameOwner", &b.owner, login1)
}

// preparing tells whether a shutdown is under way.
func (b *bus) preparing(ctx context.Context) (under bool, err error) {
	err = b.property(ctx, "PreparingForShutdown", &under)
	return under, err
}

// delay is how long logind waits for inhibitors.
func (b *bus) delay(ctx context.Context) (time.Duration, error) {
	var microseconds uint64
	if err := b.property(ctx, "InhibitDelayMaxUSec", &microseconds); err != nil {
		return 0, err
	}
	const most = 365 * 24 * time.Hour // logind writes "infinity" as the largest number
	return time.Duration(min(microseconds, uint64(most/time.Microsecond))) * time.Microsecond, nil
}

func (b *bus) property(ctx context.Context, name string, value any) error {
	var v dbus.Variant
	if err := b.call(ctx, login1, managerPath, "org.freedesktop.DBus.Properties.Get", &v, manager, name); err != nil {
		return fmt.Errorf("property %s: %w", name, err)
	}
	if err := v.Store(value); err != nil {
		return fmt.Errorf("property %s: %w", name, err)
	}
	return nil
}

// Errors of a session.
var (
	errBusLost  = errors.New("the connection to the system bus has ended")
	errGone     = errors.New("systemd-logind has left the bus")
	errReplaced = errors.New("systemd-logind was restarted")
)

// isNamed tells whether an error is the one of that name on the bus.
func isNamed(err error, names ...string) bool {
	var e dbus.Error
	var p *dbus.Error
	switch {
	case errors.As(err, &e):
	case errors.As(err, &p):
		e = *p
	default:
		return false
	}
	for _, name := range names {
		if e.Name == name {
			return true
		}
	}
	return false
}

// shuttingDown tells that logind refuses inhibitors because it waits for some already.
func shuttingDown(err error) bool { return isNamed(err, login1+".OperationInProgress") }

// explain adds what an operator can do about an error.
func explain(err error) error {
	if remedy := remedy(err); remedy != "" {
		return fmt.Errorf("%w: %s", err, remedy)
	}
	return err
}

func remedy(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded), isNamed(err, theBus+".Error.NoReply", theBus+".Error.TimedOut"):
		return "it does not answer: see journalctl -u systemd-logind"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, io.EOF), errors.Is(err, dbus.ErrClosed), errors.Is(err, net.ErrClosed), errors.Is(err, errBusLost):
		return "is dbus.service running? Without systemd leave this detector out"
	case isNamed(err, theBus+".Error.ServiceUnknown", theBus+".Error.NameHasNoOwner"), errors.Is(err, errGone):
		return "start it with systemctl start systemd-logind; without systemd leave this detector out"
	case errors.Is(err, errReplaced):
		return "nothing to do, it is asked again at once"
	case isNamed(err, theBus+".Error.AccessDenied", theBus+".Error.InteractiveAuthorizationRequired"):
		return "run nvhd as root, or allow its user org.freedesktop.login1.inhibit-delay-shutdown in polkit"
	case isNamed(err, theBus+".Error.UnknownMethod", theBus+".Error.UnknownInterface", theBus+".Error.UnknownProperty",
		theBus+".Error.UnknownObject", theBus+".Error.InvalidArgs"):
		return "what owns org.freedesktop.login1 is not systemd-logind, or one that is too old"
	case shuttingDown(err):
		return "a shutdown is under way"
	}
	return ""
}
