package record

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nv-hypervisor/nv-hypervisor/nvram"
)

// Identity says whose state a region holds. It never changes.
type Identity struct {
	VM       UUID        `json:"vm"`
	Name     string      `json:"name"` // 1 to MaxName bytes
	RAM      nvram.ID    `json:"ram"`  // the region that holds the VM's RAM
	RAMSize  nvram.Bytes `json:"ram_size"`
	SlotSize nvram.Bytes `json:"slot_size"` // a multiple of 4 KiB
}

// Area is a VM's state region, opened.
type Area struct {
	mem nvram.Memory
	id  Identity

	mu     sync.Mutex // serialises reading and the marks; never taken by a save
	unsure bool       // a fence failed: a commit word that reads 0 may not be so after a power cut; guarded by mu

	// turn is the sequence of the current record, shifted left by one, and in
	// bit 0 whether somebody is writing the next. Writers compare-and-swap the
	// bit, so a save neither waits for a lock nor overtakes anybody.
	turn atomic.Uint64
}

// Identity returns whose state this is.
func (a *Area) Identity() Identity { return a.id }

// Format writes the header of a new area and its first record ([StatusNone]);
// whatever the region held is lost. It is durable when Format returns; cut
// short, it leaves what was there or an area that Open refuses with [ErrNotArea].
func Format(mem nvram.Memory, id Identity) error {
	if err := id.validate(len(mem.Bytes())); err != nil {
		return fmt.Errorf("format state region of VM %q: %w", id.Name, err)
	}
	// The old header goes first: it must not be found before a wiped record.
	if get64(mem.Bytes(), headerWordAt) != 0 {
		if err := storeWord(mem, headerWordAt, 0); err != nil {
			return fmt.Errorf("format state region of VM %q: %w", id.Name, err)
		}
	}

	first := Record{Sequence: 1, Status: StatusNone, Slot: -1, Launch: LaunchRef{Index: -1}}
	body := first.encode(id.VM)
	put64(body, wordAt, recordWord(body))
	copies := make([]byte, 2*copyDistance)
	copy(copies[copyAt(first.Sequence)-copyOffset:], body)
	mem.Copy(copyOffset, copies)

	header := id.encode()
	mem.Store(0, header[:headerWordAt])
	mem.Store(headerWordAt+wordSize, header[headerWordAt+wordSize:])
	mem.Flush(0, headerSize)
	if err := mem.Fence(); err != nil {
		return fmt.Errorf("format state region of VM %q: %w", id.Name, err)
	}
	if err := storeWord(mem, headerWordAt, headerWord(header)); err != nil {
		return fmt.Errorf("format state region of VM %q: %w", id.Name, err)
	}
	return nil
}

// Open reads the header of an area and changes nothing. Its errors are
// [ErrNotArea], [ErrCorrupt] and [ErrNewerVersion]; records are judged by Latest.
func Open(mem nvram.Memory) (*Area, error) {
	id, err := decodeIdentity(mem.Bytes())
	if err != nil {
		return nil, fmt.Errorf("open state region: %w", err)
	}
	a := &Area{mem: mem, id: id}
	a.turn.Store(a.highest().Sequence << 1)
	return a, nil
}

func (id Identity) validate(region int) error {
	switch {
	case len(id.Name) == 0 || len(id.Name) > MaxName:
		return fmt.Errorf("name has %d bytes, must have 1 to %d", len(id.Name), MaxName)
	case id.SlotSize == 0 || id.SlotSize%slotUnit != 0:
		return fmt.Errorf("slot size %v is not a multiple of 4 KiB", id.SlotSize)
	case id.SlotSize > nvram.Bytes(region) || RegionSize(id.SlotSize) > nvram.Bytes(region):
		return fmt.Errorf("two slots of %v do not fit a region of %v, allocate RegionSize: %w",
			id.SlotSize, nvram.Bytes(region), ErrTooLarge)
	}
	return nil
}

func (id Identity) encode() []byte {
	b := make([]byte, headerSize)
	put64(b, headerMagicAt, headerMagic)
	put32(b, headerVersionAt, layoutVersion)
	copy(b[headerVMAt:], id.VM[:])
	copy(b[headerRAMAt:], id.RAM[:])
	put64(b, headerRAMSizeAt, uint64(id.RAMSize))
	put64(b, headerSlotAt, uint64(id.SlotSize))
	b[headerNameLenAt] = byte(len(id.Name))
	copy(b[headerNameAt:], id.Name)
	return b
}

func decodeIdentity(region []byte) (Identity, error) {
	if len(region) < headerSize {
		return Identity{}, fmt.Errorf("region has only %d bytes: %w", len(region), ErrNotArea)
	}
	b := slices.Clone(region[:headerSize])
	word := get64(b, headerWordAt)
	switch {
	case get64(b, headerMagicAt) != headerMagic && word>>32 != headerTag:
		return Identity{}, ErrNotArea
	case word == 0:
		return Identity{}, fmt.Errorf("formatting was cut short, create the VM again: %w", ErrNotArea)
	case word != headerWord(b):
		return Identity{}, fmt.Errorf("checksum is wrong: %w", ErrCorrupt)
	case get32(b, headerVersionAt) > layoutVersion:
		return Identity{}, fmt.Errorf("format %d, this program knows up to %d, use a newer NV-Hypervisor: %w",
			get32(b, headerVersionAt), layoutVersion, ErrNewerVersion)
	case b[headerNameLenAt] > MaxName:
		return Identity{}, fmt.Errorf("name of %d bytes: %w", b[headerNameLenAt], ErrCorrupt)
	}
	id := Identity{
		VM:       UUID(b[headerVMAt:]),
		Name:     string(b[headerNameAt:][:b[headerNameLenAt]]),
		RAM:      nvram.ID(b[headerRAMAt:]),
		RAMSize:  nvram.Bytes(get64(b, headerRAMSizeAt)),
		SlotSize: nvram.Bytes(get64(b, headerSlotAt)),
	}
	if err := id.validate(len(region)); err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return id, nil
}

// storeWord makes one 8-byte store durable.
func storeWord(mem nvram.Memory, at int, word uint64) error {
	mem.Store8(at, word)
	mem.Flush(at, wordSize)
	return mem.Fence()
}
