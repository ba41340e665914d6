module github.com/nv-hypervisor/nv-hypervisor

go 1.26
