package gpio

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// ours says of each C expression over the header what it is in Go.
var ours = []struct {
	c    string
	inGo uint64
}{
	{"GPIO_MAX_NAME_SIZE", nameSize},
	{"GPIO_V2_LINES_MAX", uint64(len(lineRequest{}.offsets))},
	{"GPIO_V2_LINE_NUM_ATTRS_MAX", uint64(len(lineConfig{}.attrs))},
	{"GPIO_V2_LINE_FLAG_USED", flagUsed},
	{"GPIO_V2_LINE_FLAG_ACTIVE_LOW", flagActiveLow},
	{"GPIO_V2_LINE_FLAG_INPUT", flagInput},
	{"GPIO_V2_LINE_FLAG_EDGE_RISING", flagEdgeRising},
	{"GPIO_V2_LINE_FLAG_EDGE_FALLING", flagEdgeFalling},
	{"GPIO_V2_LINE_FLAG_BIAS_PULL_UP", flagPullUp},
	{"GPIO_V2_LINE_FLAG_BIAS_PULL_DOWN", flagPullDown},
	{"GPIO_V2_LINE_FLAG_BIAS_DISABLED", flagBiasDisabled},
	{"GPIO_V2_LINE_ATTR_ID_DEBOUNCE", attrDebounce},
	{"GPIO_V2_LINE_EVENT_RISING_EDGE", edgeRising},
	{"GPIO_V2_LINE_EVENT_FALLING_EDGE", edgeFalling},
	{"GPIO_GET_CHIPINFO_IOCTL", ioctlChipInfo},
	{"GPIO_V2_GET_LINEINFO_IOCTL", ioctlLineInfo},
	{"GPIO_V2_GET_LINE_IOCTL", ioctlGetLine},
	{"GPIO_V2_LINE_GET_VALUES_IOCTL", ioctlGetValues},

	{"sizeof(struct gpiochip_info)", uint64(unsafe.Sizeof(chipInfo{}))},
	{"offsetof(struct gpiochip_info, label)", uint64(unsafe.Offsetof(chipInfo{}.label))},
	{"offsetof(struct gpiochip_info, lines)", uint64(unsafe.Offsetof(chipInfo{}.lines))},

	{"sizeof(struct gpio_v2_line_attribute)", uint64(unsafe.Sizeof(lineAttribute{}))},
	{"offsetof(struct gpio_v2_line_attribute, id)", uint64(unsafe.Offsetof(lineAttribute{}.id))},
	{"offsetof(struct gpio_v2_line_attribute, debounce_period_us)", uint64(unsafe.Offsetof(lineAttribute{}.value))},

	{"sizeof(struct gpio_v2_line_info)", uint64(unsafe.Sizeof(lineInfo{}))},
	{"offsetof(struct gpio_v2_line_info, name)", uint64(unsafe.Offsetof(lineInfo{}.name))},
	{"offsetof(struct gpio_v2_line_info, consumer)", uint64(unsafe.Offsetof(lineInfo{}.consumer))},
	{"offsetof(struct gpio_v2_line_info, offset)", uint64(unsafe.Offsetof(lineInfo{}.offset))},
	{"offsetof(struct gpio_v2_line_info, num_attrs)", uint64(unsafe.Offsetof(lineInfo{}.numAttrs))},
	{"offsetof(struct gpio_v2_line_info, flags)", uint64(unsafe.Offsetof(lineInfo{}.flags))},
	{"offsetof(struct gpio_v2_line_info, attrs)", uint64(unsafe.Offsetof(lineInfo{}.attrs))},

	{"sizeof(struct gpio_v2_line_config_attribute)", uint64(unsafe.Sizeof(configAttribute{}))},
	{"offsetof(struct gpio_v2_line_config_attribute, mask)", uint64(unsafe.Offsetof(configAttribute{}.mask))},
	{"sizeof(struct gpio_v2_line_config)", uint64(unsafe.Sizeof(lineConfig{}))},
	{"offsetof(struct gpio_v2_line_config, num_attrs)", uint64(unsafe.Offsetof(lineConfig{}.numAttrs))},
	{"offsetof(struct gpio_v2_line_config, attrs)", uint64(unsafe.Offsetof(lineConfig{}.attrs))},

	{"sizeof(struct gpio_v2_line_request)", uint64(unsafe.Sizeof(lineRequest{}))},
	{"offsetof(struct gpio_v2_line_request, consumer)", uint64(unsafe.Offsetof(lineRequest{}.consumer))},
	{"offsetof(struct gpio_v2_line_request, config)", uint64(unsafe.Offsetof(lineRequest{}.config))},
	{"offsetof(struct gpio_v2_line_request, num_lines)", uint64(unsafe.Offsetof(lineRequest{}.numLines))},
	{"offsetof(struct gpio_v2_line_request, event_buffer_size)", uint64(unsafe.Offsetof(lineRequest{}.eventBufferSize))},
	{"offsetof(struct gpio_v2_line_request, fd)", uint64(unsafe.Offsetof(lineRequest{}.fd))},

	{"sizeof(struct gpio_v2_line_values)", uint64(unsafe.Sizeof(lineValues{}))},
	{"offsetof(struct gpio_v2_line_values, bits)", uint64(unsafe.Offsetof(lineValues{}.bits))},
	{"offsetof(struct gpio_v2_line_values, mask)", uint64(unsafe.Offsetof(lineValues{}.mask))},

	{"sizeof(struct gpio_v2_line_event)", uint64(unsafe.Sizeof(lineEvent{}))},
	{"sizeof(struct gpio_v2_line_event)", eventSize},
	{"offsetof(struct gpio_v2_line_event, timestamp_ns)", uint64(unsafe.Offsetof(lineEvent{}.timestampNS))},
	{"offsetof(struct gpio_v2_line_event, id)", uint64(unsafe.Offsetof(lineEvent{}.id))},
	{"offsetof(struct gpio_v2_line_event, offset)", uint64(unsafe.Offsetof(lineEvent{}.offset))},
	{"offsetof(struct gpio_v2_line_event, seqno)", uint64(unsafe.Offsetof(lineEvent{}.seqno))},
	{"offsetof(struct gpio_v2_line_event, line_seqno)", uint64(unsafe.Offsetof(lineEvent{}.lineSeqno))},
}

// The kernel's header, as the C compiler sees it, is the judge.
func TestGoAgreesWithTheHeader(t *testing.T) {
	var program, want strings.Builder
	program.WriteString("#include <stddef.h>\n#include <stdio.h>\n#include <linux/gpio.h>\nint main(void)\n{\n")
	for _, o := range ours {
		fmt.Fprintf(&program, "\tprintf(\"%%s %%llu\\n\", %q, (unsigned long long)(%s));\n", o.c, o.c)
		fmt.Fprintf(&want, "%s %d\n", o.c, o.inGo)
	}
	program.WriteString("\treturn 0;\n}\n")
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "print.c"), filepath.Join(dir, "print")
	if err := os.WriteFile(source, []byte(program.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-Wall", "-Wextra", "-Werror", "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := exec.Command(binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("Go (-) and C (+) differ:\n%s", diff)
	}
}
