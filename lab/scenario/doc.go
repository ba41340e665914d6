// Package scenario tests the unchanged product on whole emulated hosts, by cutting their power. TestPowerCut is part of
// every test run; with the build tag lab there are the matrix of kernels, QEMUs and NVDIMMs (make lab-test) and
// the plug pulled at the worst moments (make lab-cuts).
package scenario
