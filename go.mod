module github.com/nv-hypervisor/nv-hypervisor

go 1.26.0

require golang.org/x/sys v0.49.0 // indirect
require golang.org/x/sys v0.49.0
require github.com/inconshreveable/mousetrap v1.1.0 // indirect

require (
	github.com/BurntSushi/toml v1.6.0
	github.com/spf13/cobra v1.10.2
	github.com/spf13/pflag v1.0.9
	golang.org/x/sys v0.49.0
)
