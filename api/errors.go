package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/qemu"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// Causes that arise in the API itself.
var (
	ErrUnreachable = errors.New("the daemon is not reachable")
	ErrForbidden   = errors.New("not permitted")
	ErrTooLarge    = errors.New("request too large")
	ErrNoEndpoint  = errors.New("no such endpoint")
	ErrInternal    = errors.New("internal error")
)

// Code names the cause of an error on the wire. Codes are stable.
type Code string

// cause ties together what one cause is called inside, on the wire, and in HTTP.
type cause struct {
	Sentinel error
	Code     Code
	Status   int
}

// causes is searched from the top: the first match names the error.
var causes = []cause{
	{vm.ErrRefused, "refused", http.StatusUnprocessableEntity},
	{nvram.ErrFull, "pool_full", http.StatusInsufficientStorage},
	{nvram.ErrLocked, "pool_locked", http.StatusConflict},
	{nvram.ErrNotPool, "pool_missing", http.StatusUnprocessableEntity},
	{nvram.ErrForeign, "pool_foreign", http.StatusUnprocessableEntity},
	{nvram.ErrTruncated, "pool_truncated", http.StatusUnprocessableEntity},
	{nvram.ErrNewerVersion, "pool_newer", http.StatusUnprocessableEntity},
	{nvram.ErrCorrupt, "pool_corrupt", http.StatusUnprocessableEntity},
	{nvram.ErrUnhealthy, "pool_unhealthy", http.StatusUnprocessableEntity},
	{nvram.ErrReplaced, "region_replaced", http.StatusUnprocessableEntity},
	{nvram.ErrReadOnly, "read_only", http.StatusConflict},
	{vm.ErrNotFound, "not_found", http.StatusNotFound},
	{nvram.ErrNotFound, "region_not_found", http.StatusNotFound},
	{vm.ErrExists, "exists", http.StatusConflict},
	{nvram.ErrExists, "region_exists", http.StatusConflict},
	{vm.ErrBusy, "busy", http.StatusConflict},
	{vm.ErrState, "state", http.StatusConflict},
	{vm.ErrInvalid, "invalid", http.StatusBadRequest},
	{qemu.ErrInvalid, "invalid_guest", http.StatusBadRequest},
	{qemu.ErrVersion, "qemu_version", http.StatusUnprocessableEntity},
	{qemu.ErrNotSupported, "not_supported", http.StatusUnprocessableEntity},
	{qemu.ErrGone, "qemu_gone", http.StatusConflict},
	{nvram.ErrInvalidName, "invalid_name", http.StatusBadRequest},
	{ErrTooLarge, "too_large", http.StatusRequestEntityTooLarge},
	{ErrForbidden, "forbidden", http.StatusForbidden},
	{ErrNoEndpoint, "no_endpoint", http.StatusNotFound},
	{context.DeadlineExceeded, "timeout", http.StatusGatewayTimeout},
	{context.Canceled, "canceled", http.StatusServiceUnavailable},
	{ErrInternal, "internal", http.StatusInternalServerError},
}

// Codes returns every code of the API but "failed", which stands for all other
// causes.
func Codes() []Code {
	var codes []Code
	for _, c := range causes {
		codes = append(codes, c.Code)
	}
	return codes
}

// Error is an error as the API tells it. It unwraps to the sentinel its Code
// stands for.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"` // one sentence: what to do next
}

// errorBody is the JSON body of every response that is not a success.
type errorBody struct {
	Error *Error `json:"error"`
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the sentinel of e.Code, or nil for a code of a newer daemon.
func (e *Error) Unwrap() error {
	for _, c := range causes {
		if c.Code == e.Code {
			return c.Sentinel
		}
	}
	return nil
}

// Describe turns any error into what the API tells about it. Errors without a
// known cause have the code "failed".
func Describe(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return &Error{Code: e.Code, Message: err.Error(), Remedy: firstOf(vm.Remedy(err), e.Remedy)}
	}
	e := &Error{Code: "failed", Message: err.Error(), Remedy: vm.Remedy(err)}
	for _, c := range causes {
		if errors.Is(err, c.Sentinel) {
			e.Code = c.Code
			break
		}
	}
	return e
}

// httpStatus returns the HTTP status of a code.
func httpStatus(code Code) int {
	for _, c := range causes {
		if c.Code == code {
			return c.Status
		}
	}
	return http.StatusInternalServerError
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{vm.ErrInvalid}, args...)...)
}
