package api_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/nv-hypervisor/nv-hypervisor/api"
)

func TestAccess(t *testing.T) {
	group := api.Access{UID: 100, GID: 50, Group: "nvh"}
	none := api.Access{UID: 100, GID: -1}
	for _, c := range []struct {
		name   string
		access api.Access
		peer   api.Peer
		served bool
	}{
		{"root", group, api.Peer{UID: 0}, true},
		{"the daemon's user", group, api.Peer{UID: 100}, true},
		{"primary group", group, api.Peer{UID: 7, Groups: []int{50}}, true},
		{"supplementary group", group, api.Peer{UID: 7, Groups: []int{1, 2, 50, 3}}, true},
		{"another group", group, api.Peer{UID: 7, Groups: []int{1, 100}}, false},
		{"no group configured", none, api.Peer{UID: 7, Groups: []int{50}}, false},
		{"group -1", none, api.Peer{UID: 7, Groups: []int{-1}}, false},
		{"unknown peer", group, api.Peer{UID: 0, Err: errors.New("lost")}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.access.Check(c.peer)
			if served := err == nil; served != c.served || (err != nil && !errors.Is(err, api.ErrForbidden)) {
				t.Errorf("%v, want served=%v", err, c.served)
			}
		})
	}
}

// The kernel's word about a real other process decides. It needs root, to
// become somebody else; the whole suite runs as root in a container or a VM.
func TestPeerOfAnotherUser(t *testing.T) {
	d := serve(t)
	if err := errors.Join(os.Chmod(d.Socket, 0o666), os.Chmod(strings.TrimSuffix(d.Socket, "/nvhd.sock"), 0o755)); err != nil {
		t.Fatal(err)
	}
	self, err := os.Open("/proc/self/exe") // the test binary lies where others may not look
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	ask := exec.Command("/proc/self/fd/3")
	ask.ExtraFiles = []*os.File{self}
	ask.Env = []string{"NVH_TEST_ASK=" + d.Socket}
	ask.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{65533}}}
	out, err := ask.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := string(out); !strings.Contains(got, "code=forbidden") || !strings.Contains(got, "user 65534") || !strings.Contains(got, "join that group") {
		t.Errorf("uid 65534 got %s", got)
	}
}

// askStatus is the other user's process.
func askStatus(socket string) int {
	c, err := api.NewClient(socket)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer c.Close()
	_, err = c.Status(context.Background())
	if err == nil {
		fmt.Println("code=ok")
		return 0
	}
	e := api.Describe(err)
	fmt.Printf("code=%s %s %s\n", e.Code, e.Message, e.Remedy)
	return 0
}
