// Package scenario tests the unchanged product on whole emulated hosts, by cutting their power. It has the build tag lab,
// because a host takes minutes on a busy machine and can lock up: make lab-test runs the smoke scenario, the matrix of
// kernels, QEMUs and NVDIMMs and the rest, make lab-cuts pulls the plug at the worst moments.
package scenario
