package vm

import "errors"

// What a caller can decide on. Every error of the daemon that has one of these
// causes wraps it, and the API carries it to the client unchanged: errors.Is
// gives the same answer on both sides of the socket.
var (
	ErrNotFound = errors.New("not found")                // no VM, pool or outage of that name
	ErrExists   = errors.New("exists already")           // the name is taken
	ErrState    = errors.New("not possible now")         // the VM is in the wrong state for this verb
	ErrRefused  = errors.New("image refused")            // the image is doubtful and is not resumed
	ErrInvalid  = errors.New("invalid")                  // a definition or an argument is wrong
	ErrBusy     = errors.New("busy with something else") // another verb works on this VM, or the console is taken
)

// WithRemedy adds to err one sentence that says what to do next. The sentence
// is not part of Error(); front ends show it apart.
func WithRemedy(err error, sentence string) error {
	if err == nil || sentence == "" {
		return err
	}
	return &remedied{err, sentence}
}

// Remedy returns the outermost sentence added by WithRemedy, or "".
func Remedy(err error) string {
	if r, ok := errors.AsType[*remedied](err); ok {
		return r.sentence
	}
	return ""
}

type remedied struct {
	error
	sentence string
}

func (r *remedied) Unwrap() error { return r.error }
