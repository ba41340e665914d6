package main

import ("fmt";"context";"github.com/nv-hypervisor/nv-hypervisor/lab/guest";"github.com/nv-hypervisor/nv-hypervisor/lab/debian";"log")

func main() {
	c, err := debian.DefaultCache(); if err != nil { log.Fatal(err) }
	i, err := guest.Build(context.Background(), c); if err != nil { log.Fatal(err) }
	fmt.Println(i.Kernel); fmt.Println(i.Initrd); fmt.Println(i.Cmdline)
}
