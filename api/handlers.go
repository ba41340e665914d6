package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/nv-hypervisor/nv-hypervisor/host"
	"github.com/nv-hypervisor/nv-hypervisor/outage"
	"github.com/nv-hypervisor/nv-hypervisor/pod/webhook"
	"github.com/nv-hypervisor/nv-hypervisor/vm"
)

// monitorTimeout bounds a monitor command: QEMU's main loop may be stuck.
const monitorTimeout = time.Minute

// answer sends the result of a backend call; a nil slice becomes [].
func answer[T any](s *Server, w http.ResponseWriter, v T, err error) error {
	if err != nil {
		return err
	}
	s.reply(w, http.StatusOK, v)
	return nil
}

func answerList[T any](s *Server, w http.ResponseWriter, list []T, err error) error {
	if list == nil {
		list = []T{}
	}
	return answer(s, w, list, err)
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.Status(r.Context())
	return answer(s, w, v, err)
}

func (s *Server) doctor(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.Doctor(r.Context())
	return answerList(s, w, v, err)
}

func (s *Server) listDetectors(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.Detectors(r.Context())
	return answerList(s, w, v, err)
}

func (s *Server) testDetectors(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.TestDetectors(s.verbs, r.URL.Query().Get("name"))
	return answerList(s, w, v, err)
}

func (s *Server) hearEvent(w http.ResponseWriter, r *http.Request) error {
	var e webhook.Event
	if err := s.decode(w, r, &e, false); err != nil {
		return err
	}
	v, err := s.backend.Announce(r.Context(), e)
	return answer(s, w, v, err)
}

func (s *Server) listVMs(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.List(r.Context())
	return answerList(s, w, v, err)
}

func (s *Server) vmInfo(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.Info(r.Context(), r.PathValue("name"))
	return answer(s, w, v, err)
}

func (s *Server) createVM(w http.ResponseWriter, r *http.Request) error {
	var d vm.Definition
	if err := s.decode(w, r, &d, false); err != nil {
		return err
	}
	if err := CheckName(d.Name); err != nil {
		return err
	}
	v, err := s.backend.Create(s.verbs, d)
	if err != nil {
		return err
	}
	s.reply(w, http.StatusCreated, v)
	return nil
}

func (s *Server) removeVM(w http.ResponseWriter, r *http.Request) error {
	discard, err := flag(r, "discard_image")
	if err != nil {
		return err
	}
	if err := s.backend.Remove(s.verbs, r.PathValue("name"), discard); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) startVM(w http.ResponseWriter, r *http.Request) error {
	var o host.StartOptions
	if err := s.decode(w, r, &o, true); err != nil {
		return err
	}
	v, err := s.backend.Start(s.verbs, r.PathValue("name"), o)
	return answer(s, w, v, err)
}

func (s *Server) stopVM(w http.ResponseWriter, r *http.Request) error {
	var o host.StopOptions
	if err := s.decode(w, r, &o, true); err != nil {
		return err
	}
	if o.Timeout < 0 {
		return invalid("timeout %v is negative", o.Timeout)
	}
	v, err := s.backend.Stop(s.verbs, r.PathValue("name"), o)
	return answer(s, w, v, err)
}

func (s *Server) pauseVM(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.Pause(s.verbs, r.PathValue("name"))
	return answer(s, w, v, err)
}

func (s *Server) unpauseVM(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.Unpause(s.verbs, r.PathValue("name"))
	return answer(s, w, v, err)
}

func (s *Server) saveVM(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.Save(s.verbs, r.PathValue("name"))
	return answer(s, w, v, err)
}

func (s *Server) restoreVM(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.Restore(s.verbs, r.PathValue("name"))
	return answer(s, w, v, err)
}

func (s *Server) monitorVM(w http.ResponseWriter, r *http.Request) error {
	var req host.MonitorRequest
	if err := s.decode(w, r, &req, false); err != nil {
		return err
	}
	if (req.HMP == "") == (len(req.QMP) == 0) {
		return invalid("give exactly one of hmp and qmp")
	}
	ctx, cancel := context.WithTimeout(r.Context(), monitorTimeout)
	defer cancel()
	v, err := s.backend.Monitor(ctx, r.PathValue("name"), req)
	return answer(s, w, v, err)
}

func (s *Server) suspendAll(w http.ResponseWriter, _ *http.Request) error {
	v, err := s.backend.SuspendAll(s.verbs)
	return answer(s, w, v, err)
}

func (s *Server) listOutages(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.Outages(r.Context())
	return answerList(s, w, v, err)
}

func (s *Server) outage(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.Outage(r.Context(), r.PathValue("id"))
	return answer(s, w, v, err)
}

func (s *Server) simulate(w http.ResponseWriter, _ *http.Request) error {
	return s.announce(w, s.backend.Simulate)
}

func (s *Server) clear(w http.ResponseWriter, _ *http.Request) error {
	return s.announce(w, s.backend.Clear)
}

func (s *Server) announce(w http.ResponseWriter, verb func(context.Context) (outage.Timeline, error)) error {
	v, err := verb(s.verbs)
	return answer(s, w, v, err)
}

func (s *Server) listPools(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.Pools(r.Context())
	return answerList(s, w, v, err)
}

func (s *Server) poolHealth(w http.ResponseWriter, r *http.Request) error {
	v, err := s.backend.PoolHealth(r.Context(), r.PathValue("name"))
	return answer(s, w, v, err)
}

func (s *Server) importPool(w http.ResponseWriter, r *http.Request) error {
	var req importRequest
	if err := s.decode(w, r, &req, false); err != nil {
		return err
	}
	if req.Name != "" {
		if err := CheckName(req.Name); err != nil {
			return err
		}
	}
	if len(req.Path) == 0 || req.Path[0] != '/' {
		return invalid("pool path %q is not absolute", req.Path)
	}
	v, err := s.backend.ImportPool(s.verbs, req.Path, req.Name)
	return answerList(s, w, v, err)
}

// flag reads a boolean query parameter; absent means false.
func flag(r *http.Request, name string) (bool, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, invalid("%s=%q is neither true nor false", name, text)
	}
	return v, nil
}
