package api

import (
	"regexp"

	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// maxName is the longest name of anything in the API: that of a region.
const maxName = 63

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// CheckName refuses a name that could not be one of a VM, a pool or an outage,
// before it becomes part of a path: on both sides of the socket.
func CheckName(name string) error {
	switch {
	case name == "":
		return vm.WithRemedy(invalid("the name is empty"), "Give a name.")
	case len(name) > maxName:
		return vm.WithRemedy(invalid("name of %d bytes; at most %d", len(name), maxName), "Choose a shorter name.")
	case !nameForm.MatchString(name):
		return vm.WithRemedy(invalid("name %q", name),
			"A name begins with a letter or digit and has only letters, digits, '_', '.' and '-'.")
	}
	return nil
}
