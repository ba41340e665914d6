package api

import (
	"net/http"

	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
)

// Route is one endpoint of the API.
type Route struct {
	Method  string
	Path    string // in the notation of http.ServeMux
	Summary string
	serve   func(*Server, http.ResponseWriter, *http.Request) error
}

// Routes returns every endpoint, in the order in which docs/api.md lists them.
func Routes() []Route { return routes }

var routes = []Route{
	{"GET", "/v1/status", "the daemon's own state", (*Server).status},
	{"GET", "/v1/doctor", "checks of the host, each with its remedy", (*Server).doctor},
	{"GET", "/v1/detectors", "what announces outages, and whether it is heard", (*Server).listDetectors},
	{"POST", "/v1/detectors/test", "tests of the detectors, without an outage", (*Server).testDetectors},
	{"POST", webhook.Path, "how the power is, by whoever knows", (*Server).hearEvent},
	{"GET", "/v1/events", "the event stream (server-sent events)", (*Server).streamEvents},

	{"GET", "/v1/vms", "all VMs", (*Server).listVMs},
	{"POST", "/v1/vms", "define a VM", (*Server).createVM},
	{"GET", "/v1/vms/{name}", "one VM", (*Server).vmInfo},
	{"DELETE", "/v1/vms/{name}", "remove a VM and its region", (*Server).removeVM},
	{"POST", "/v1/vms/{name}/start", "resume the saved image, or boot", (*Server).startVM},
	{"POST", "/v1/vms/{name}/stop", "shut down the guest, or end QEMU", (*Server).stopVM},
	{"POST", "/v1/vms/{name}/pause", "stop the vCPUs", (*Server).pauseVM},
	{"POST", "/v1/vms/{name}/unpause", "let the vCPUs run again", (*Server).unpauseVM},
	{"POST", "/v1/vms/{name}/save", "save the volatile state and end QEMU", (*Server).saveVM},
	{"POST", "/v1/vms/{name}/restore", "continue from the saved image", (*Server).restoreVM},
	{"POST", "/v1/vms/{name}/monitor", "one command for QEMU's monitor", (*Server).monitorVM},
	{"GET", "/v1/vms/{name}/console", "the serial console (Upgrade: nvh-console)", (*Server).consoleVM},
	{"GET", "/v1/vms/{name}/logs/{log}", "the log of QEMU or of the console", (*Server).logVM},

	{"POST", "/v1/suspend", "save every persistent VM", (*Server).suspendAll},
	{"GET", "/v1/outages", "timelines of outages, saves and recoveries", (*Server).listOutages},
	{"GET", "/v1/outages/{id}", "one timeline", (*Server).outage},
	{"POST", "/v1/outages/simulate", "announce an outage", (*Server).simulate},
	{"POST", "/v1/outages/clear", "announce that power is back", (*Server).clear},

	{"GET", "/v1/pools", "the NVRAM pools", (*Server).listPools},
	{"GET", "/v1/pools/{name}/health", "the memory modules under a pool", (*Server).poolHealth},
	{"POST", "/v1/pools/import", "take over a pool and its VMs", (*Server).importPool},
}
