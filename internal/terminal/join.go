package terminal

import (
	"bytes"
	"io"
	"os"
)

// escapeKey is Ctrl-], as in telnet and virsh.
const escapeKey = 0x1d

// Join joins input, which is switched to raw mode if it is a terminal, and output with a console until Ctrl-] or the
// end of the console, and closes the console. begin is called when the terminal is ready. Join reports
// whether the user has left; an end of the input alone is no reason to stop showing the output.
func Join(input *os.File, output io.Writer, console io.ReadWriteCloser, begin func()) (left bool, err error) {
	restore, err := rawTerminal(input)
	if err != nil {
		return false, err
	}
	defer restore()
	keys, err := openKeyboard(input)
	if err != nil {
		return false, err
	}
	begin()

	typed := make(chan bool, 1)
	go func() { typed <- typeInto(console, keys) }()
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(output, console); ended <- err }()
	left, err = watch(typed, ended)

	keys.Stop()
	console.Close()
	if left {
		<-ended
	} else {
		<-typed
	}
	keys.Close()
	return left, err
}

// watch waits until the user leaves or the output ends. The end of the input
// alone is no reason to stop showing the output.
func watch(left chan bool, ended chan error) (leaving bool, err error) {
	select {
	case escaped := <-left:
		if escaped {
			return true, nil
		}
		left <- false // for the caller, who waits for it
		return false, <-ended
	case err := <-ended:
		return false, err
	}
}

// typeInto copies keys to the console. It reports true at the escape key and
// false when the input or the console ends.
func typeInto(console io.Writer, keys io.Reader) bool {
	buffer := make([]byte, 1024)
	for {
		n, err := keys.Read(buffer)
		text, _, escaped := bytes.Cut(buffer[:n], []byte{escapeKey})
		if _, failed := console.Write(text); failed != nil {
			return false
		}
		if escaped {
			return true
		}
		if err != nil {
			return false
		}
	}
}
