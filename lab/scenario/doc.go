// Package scenario tests the unchanged product on whole emulated hosts, by cutting their power. It has the build tag lab,
// because a host takes a minute or two and can still lock up (docs/lab.md): make lab-test runs the smoke scenario, the matrix of
// kernels, QEMUs and NVDIMMs and outages that go wrong, make lab-cuts pulls the plug at the worst moments.
package scenario
