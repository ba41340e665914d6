// Package scenario tests the unchanged product on whole emulated hosts, by cutting their power. TestPowerCut, the main job, is
// part of make test. The rest has the build tag lab, because a host takes a minute or two: make lab-test runs the matrix of kernels, QEMUs and NVDIMMs
// and outages that go wrong, make lab-cuts pulls the plug at the worst moments.
package scenario
