package gpio

// What follows is version 2 of the interface of GPIO character devices, include/uapi/linux/gpio.h of Linux 5.10 and later,
// as far as it is used here. A test compiles the header and compares every number, size and offset.

const nameSize = 32 // GPIO_MAX_NAME_SIZE

// chipInfo is struct gpiochip_info.
type chipInfo struct {
	name  [nameSize]byte
	label [nameSize]byte
	lines uint32
}

// lineAttribute is struct gpio_v2_line_attribute. Its union holds a 64-bit number or, at its beginning, one of 32 bits.
type lineAttribute struct {
	id      uint32
	padding uint32
	value   [8]byte
}

// lineInfo is struct gpio_v2_line_info.
type lineInfo struct {
	name     [nameSize]byte
	consumer [nameSize]byte
	offset   uint32
	numAttrs uint32
	flags    uint64
	attrs    [10]lineAttribute
	padding  [4]uint32
}

// configAttribute is struct gpio_v2_line_config_attribute.
type configAttribute struct {
	attr lineAttribute
	mask uint64
}

// lineConfig is struct gpio_v2_line_config.
type lineConfig struct {
	flags    uint64
	numAttrs uint32
	padding  [5]uint32
	attrs    [10]configAttribute
}

// lineRequest is struct gpio_v2_line_request.
type lineRequest struct {
	offsets         [64]uint32
	consumer        [nameSize]byte
	config          lineConfig
	numLines        uint32
	eventBufferSize uint32
	padding         [5]uint32
	fd              int32
}

// lineValues is struct gpio_v2_line_values.
type lineValues struct {
	bits uint64
	mask uint64
}

// lineEvent is struct gpio_v2_line_event.
type lineEvent struct {
	timestampNS uint64 // CLOCK_MONOTONIC
	id          uint32
	offset      uint32
	seqno       uint32
	lineSeqno   uint32
	padding     [6]uint32
}

const eventSize = 48 // of lineEvent

// Flags of a line.
const (
	flagUsed         = 1 << 0
	flagActiveLow    = 1 << 1
	flagInput        = 1 << 2
	flagEdgeRising   = 1 << 4
	flagEdgeFalling  = 1 << 5
	flagPullUp       = 1 << 8
	flagPullDown     = 1 << 9
	flagBiasDisabled = 1 << 10
)

const attrDebounce = 3 // GPIO_V2_LINE_ATTR_ID_DEBOUNCE

// Edges are those of the logical line: rising is from inactive to active.
const (
	edgeRising  = 1
	edgeFalling = 2
)

// Requests of ioctl(2), composed as include/uapi/asm-generic/ioctl.h does: direction, size of the argument, 0xB4, number.
const (
	ioctlChipInfo  = read | 68<<16 | magic | 0x01
	ioctlLineInfo  = read | write | 256<<16 | magic | 0x05
	ioctlGetLine   = read | write | 592<<16 | magic | 0x07
	ioctlGetValues = read | write | 16<<16 | magic | 0x0E

	write = 1 << 30
	read  = 2 << 30
	magic = 0xB4 << 8
)
