package qmp

import (
	"errors"
	"fmt"
)

// Errors that callers decide on. All are wrapped: compare with errors.Is.
var (
	// ErrClosed says that Close ended the client or the subscription.
	ErrClosed = errors.New("closed by its user")
	// ErrDisconnected says that QEMU ended the connection, most often by exiting.
	ErrDisconnected = errors.New("connection lost; see QEMU's log for why it ended")
	// ErrProtocol says that QEMU sent something that is not QMP.
	ErrProtocol = errors.New("protocol violation")
	// ErrLineTooLong says that QEMU sent a line of more than MaxLine bytes.
	ErrLineTooLong = fmt.Errorf("line of more than %d bytes", MaxLine)
	// ErrPartialWrite says that a command was given up when some of its bytes were
	// already sent. Nothing can follow them, so the client has ended.
	ErrPartialWrite = errors.New("command written only in part; connect again")
	// ErrNotSent says that no byte of the command reached QEMU: it may be repeated.
	ErrNotSent = errors.New("not sent")
	// ErrBusy says that the socket accepts connections but nobody greets: a
	// monitor serves one client at a time.
	ErrBusy = errors.New("no greeting; another client holds this monitor, or QEMU is stalled")
	// ErrNoOOB says that QEMU does not execute commands out of band here.
	ErrNoOOB = errors.New("out-of-band execution is not offered by this monitor; use a socket monitor of QEMU 4.0 or newer")
	// ErrOverflow says that a subscriber fell behind and has missed events.
	ErrOverflow = errors.New("subscriber too slow, events were dropped; subscribe again and query the state")
	// ErrPathTooLong says that a path does not fit a Unix socket address.
	ErrPathTooLong = fmt.Errorf("socket path of more than %d bytes; choose a shorter directory", maxPath)
)

// Classes of errors that QEMU reports. All but ClassGeneric name a condition
// that a program can act upon; the descriptions are for people and may change.
const (
	ClassGeneric         = "GenericError"
	ClassCommandNotFound = "CommandNotFound"
	ClassDeviceNotActive = "DeviceNotActive"
	ClassDeviceNotFound  = "DeviceNotFound"
	ClassKVMMissingCap   = "KVMMissingCap"
)

// Error is QEMU's refusal of a command. The client remains usable.
type Error struct {
	Command string
	Class   string
	Desc    string
}

// Error returns the command, class and description in one line.
func (e *Error) Error() string {
	return fmt.Sprintf("qmp: %s: %s (%s)", e.Command, e.Desc, e.Class)
}
