package nvram

import "errors"

// single is the backing of a pool in one file or device: a region is an extent.
type single struct {
	extent func(offset, n Bytes) (mem Memory, release func() error, err error)
}

// zeroStep is how much is zeroed between two looks at the source of zeros.
const zeroStep = 64 * KiB

var zeros [zeroStep]byte

// provision zeroes the extents, which also populates them. They were somebody else's until the change before.
func (s *single) provision(fresh []entry) error {
	for i := range fresh {
		if err := s.zero(fresh[i].offset, fresh[i].size); err != nil {
			return err
		}
	}
	return nil
}

func (s *single) zero(offset, size Bytes) error {
	for at := offset; at < offset+size; at += populateStep {
		mem, release, err := s.extent(at, min(populateStep, offset+size-at))
		if err != nil {
			return err
		}
		for at, n := 0, len(mem.Bytes()); at < n; at += len(zeros) {
			mem.Copy(at, zeros[:min(len(zeros), n-at)])
		}
		if err := errors.Join(mem.Fence(), release()); err != nil {
			return err
		}
	}
	return nil
}

// retire has nothing to do: an extent that is in no entry is free, and provision zeroes it for the next owner.
func (s *single) retire([]entry) error { return nil }

// verify has no more to compare than recovery did, but that the end of the extent is still there.
func (s *single) verify(e *entry) error {
	_, release, err := s.extent(e.offset+e.size-smallestUnit, smallestUnit)
	if err != nil {
		return err
	}
	return release()
}

func (s *single) sweep(*table) error { return nil }
