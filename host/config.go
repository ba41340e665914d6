package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
	"github.com/nv-hypervisor/nv-hypervisor/nvram/nvdimm"
	"github.com/nv-hypervisor/nv-hypervisor/pod/kmod"
	"github.com/nv-hypervisor/nv-hypervisor/pod/signal"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// DefaultConfigPath is read when nvhd is given no other.
const DefaultConfigPath = "/etc/nvh/nvhd.toml"

// Config is nvhd.toml. Every key has a default; an unknown key is an error.
type Config struct {
	StateDir   string       `toml:"state_dir"`   // definitions, timelines, logs; must survive a boot
	RuntimeDir string       `toml:"runtime_dir"` // sockets; may vanish at boot, keep it short
	Socket     string       `toml:"socket"`      // of the API
	Group      string       `toml:"group"`       // whose members may use the API
	Signal     string       `toml:"signal"`      // that announces an outage: SIGPWR, SIGUSR1, SIGUSR2
	PodDevice  string       `toml:"pod_device"`  // of the kernel module nvh_pod; used if it is there; "" for never
	Park       Duration     `toml:"park"`        // how long nvh_pod blocks the host after the last commit; 0: not at all
	SlowFlush  bool         `toml:"slow_flush"`  // volatile CPU caches may be written back line by line in an outage
	QEMU       string       `toml:"qemu"`        // binary for VMs that name none
	QEMUUser   string       `toml:"qemu_user"`   // user that QEMU runs as; empty: the daemon's
	Realtime   bool         `toml:"realtime"`    // real-time priority and locked memory for the save
	InFlight   int          `toml:"in_flight"`   // dumps at once; 0: cores + 1
	Parallel   int          `toml:"parallel"`    // VMs resumed at once; 0: cores
	Pools      []PoolConfig `toml:"pool"`        // the first is the default pool
	Pod        PodConfig    `toml:"pod"`         // detectors that leave time
	Policy     PolicyConfig `toml:"policy"`      // what is made of detectors that leave time

	system   nvdimm.System // the machine; tests have others
	path     string        // file it was read from
	implicit bool          // the pool is the built-in one
}

// Duration is a time.Duration that is written like "30s".
type Duration time.Duration

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// String writes it so.
func (d Duration) String() string { return time.Duration(d).String() }

// PoolConfig names an initialised pool.
type PoolConfig struct {
	Name string `toml:"name"`
	Path string `toml:"path"`
	// TrustUnhealthy runs guests in memory that has lost data or will.
	TrustUnhealthy bool `toml:"trust_unhealthy"`
}

// defaults, as documented in nvhd.toml(5).
func defaults() Config {
	return Config{
		StateDir: "/var/lib/nvh", RuntimeDir: "/run/nvh", Signal: "SIGPWR", Realtime: true,
		QEMU: "/usr/bin/qemu-system-x86_64", PodDevice: kmod.DefaultPath, system: nvdimm.Host,
		Policy: defaultPolicy(),
	}
}

// builtinPool is used when no pool is configured.
const builtinPool = "/dev/shm/nvh"

// ReadConfig reads a configuration. With an empty path it reads the default file,
// which may be missing.
func ReadConfig(path string) (Config, error) {
	c := defaults()
	file := path
	if file == "" {
		file = DefaultConfigPath
	}
	content, err := os.ReadFile(file)
	switch {
	case err == nil:
		c.path = file
	case path == "" && errors.Is(err, fs.ErrNotExist):
	default:
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := c.decode(string(content)); err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	return c, c.complete()
}

// decode reads TOML twice: the second time the tables of single detectors are read on
// top of those that hold for all.
func (c *Config) decode(content string) error {
	meta, err := toml.Decode(content, c)
	if err != nil {
		return err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return fmt.Errorf("unknown key %q; see nvhd.toml(5)", unknown[0])
	}
	c.Policy.inherit()
	_, err = toml.Decode(content, c)
	return err
}

// complete fills in what follows from other keys and checks the rest.
func (c *Config) complete() error {
	if c.Socket == "" {
		c.Socket = filepath.Join(c.RuntimeDir, "nvhd.sock")
	}
	if len(c.Pools) == 0 {
		c.implicit = true
		c.Pools = []PoolConfig{{Name: "default", Path: builtinPool}}
	}
	if _, err := signal.Parse(c.Signal); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if c.Park < 0 || time.Duration(c.Park) > kmod.MaxPark {
		return fmt.Errorf("configuration: park = %q is not between 0s and %v", c.Park, kmod.MaxPark)
	}
	if c.InFlight < 0 || c.Parallel < 0 {
		return fmt.Errorf("configuration: in_flight = %d and parallel = %d: neither may be negative; 0 goes by the cores", c.InFlight, c.Parallel)
	}
	return errors.Join(c.checkPaths(), c.checkPools(), c.Policy.check())
}

func (c *Config) checkPaths() error {
	for _, p := range []struct{ key, path string }{{"state_dir", c.StateDir}, {"runtime_dir", c.RuntimeDir}, {"socket", c.Socket}} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("configuration: %s %q is not an absolute path", p.key, p.path)
		}
	}
	if filepath.Clean(c.StateDir) == filepath.Clean(c.RuntimeDir) {
		return fmt.Errorf("configuration: state_dir and runtime_dir are the same folder %s: one survives a boot and the other need not", c.StateDir)
	}
	if len(c.Socket) > maxSocketPath {
		return fmt.Errorf("configuration: socket %s is longer than the %d bytes of a unix socket's path", c.Socket, maxSocketPath)
	}
	// Those of VMs with longer names are checked when a VM is created.
	shortest := filepath.Join(c.RuntimeDir, "vms", "x", "emergency.sock")
	if len(shortest) > maxSocketPath {
		return fmt.Errorf("configuration: runtime_dir %s is too long: a VM's sockets below it would exceed the %d bytes of a unix socket's path; choose a shorter one",
			c.RuntimeDir, maxSocketPath)
	}
	return nil
}

func (c *Config) checkPools() error {
	names, paths := map[string]bool{}, map[string]string{}
	for i := range c.Pools {
		p := &c.Pools[i]
		if err := nvram.CheckName(p.Name); err != nil {
			return fmt.Errorf("configuration: pool name: %w", err)
		}
		if names[p.Name] {
			return fmt.Errorf("configuration: two pools are named %q", p.Name)
		}
		if !filepath.IsAbs(p.Path) {
			return fmt.Errorf("configuration: path %q of pool %s is not absolute", p.Path, p.Name)
		}
		p.Path = filepath.Clean(p.Path)
		if other := paths[p.Path]; other != "" {
			return fmt.Errorf("configuration: pools %s and %s are both at %s", other, p.Name, p.Path)
		}
		names[p.Name], paths[p.Path] = true, p.Name
	}
	return nil
}

// maxSocketPath is what sockaddr_un holds, without the final NUL.
const maxSocketPath = 107

// OutageSignal is the signal that announces an outage.
func (c *Config) OutageSignal() unix.Signal {
	s, _ := signal.Parse(c.Signal) // checked by complete
	return s
}

// makeBuiltinPool initialises the built-in pool in half of what /dev/shm has free.
func makeBuiltinPool(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &st); err != nil {
		return fmt.Errorf("look at %s: %w", filepath.Dir(path), err)
	}
	size := nvram.Bytes(st.Bavail) * nvram.Bytes(st.Bsize) / 2 / nvram.Alignment * nvram.Alignment
	err := nvram.Init(nvram.InitOptions{Path: path, Kind: nvram.KindShm, Size: size})
	return vm.WithRemedy(err, "Configure a pool in "+DefaultConfigPath+".")
}
