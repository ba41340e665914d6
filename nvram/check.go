package nvram

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
)

// Report is what Check found.
type Report struct {
	Path     string    `json:"path"`
	Info     *PoolInfo `json:"info"` // nil if the pool cannot be read
	Findings []Finding `json:"findings"`
}

// OK tells whether nothing is wrong that the next Open does not repair by itself.
func (r Report) OK() bool { return r.Err() == nil }

// Err joins the findings that are errors, for errors.Is.
func (r Report) Err() error {
	var errs []error
	for _, f := range r.Findings {
		errs = append(errs, f.Err)
	}
	return errors.Join(errs...)
}

// Check looks for every inconsistency in the pool, and changes nothing. A process may be using the pool; what it is just allocating can show as
// a file that belongs to no region. The error tells that there was nothing to look at; what is wrong with the pool is in the report.
func Check(path string) (Report, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Report{}, err
	}
	report := Report{Path: path}
	m, err := openMedium(path, false)
	if err == nil {
		p := Pool{medium: m}
		defer p.Close() // opened to read: closing cannot lose anything
		err = p.inspect(&report)
	}
	var what *problem
	switch {
	case errors.As(err, &what):
		report.fault("pool", err)
		return report, nil
	case err != nil:
		return report, inPool(path, err)
	}
	return report, nil
}

// inspect adds findings, or gives the error that ends the inspection.
func (p *Pool) inspect(report *Report) error {
	t, findings, err := p.medium.snapshot()
	if err != nil {
		return err
	}
	report.Findings = findings
	if err := p.medium.fits(t); err != nil {
		report.fault("pool", err)
		if t.layout != p.medium.layout {
			return nil
		}
	}
	if err := p.attach(t); err != nil {
		return err
	}
	info := p.Info()
	report.Info = &info
	for i := range t.entries {
		if err := p.store.verify(&t.entries[i]); err != nil {
			report.fault(fmt.Sprintf("region %q", t.entries[i].name), err)
		}
	}
	d, ok := p.store.(*directory)
	if !ok {
		return nil
	}
	strays, err := d.strays(t)
	for _, id := range strays {
		report.Findings = append(report.Findings, Finding{
			Severity: SeverityWarning, Where: p.disk.name(id), What: "belongs to no region: left over by a cut", Remedy: "none needed: the next start of the daemon removes it",
		})
	}
	return err
}

func (r *Report) fault(where string, err error) {
	f := Finding{Severity: SeverityError, Where: where, What: err.Error(), Err: err}
	var p *problem
	if errors.As(err, &p) {
		f.What, f.Remedy = p.kind.Error(), p.remedy
		if p.detail != "" {
			f.What += ": " + p.detail
		}
	}
	r.Findings = append(r.Findings, f)
}

// Dump writes the metadata in readable form, every copy by itself, damaged or not. It needs neither a sound pool nor the lock.
func Dump(path string, w io.Writer) error {
	m, err := openMedium(path, false)
	if err != nil {
		return inPool(path, err)
	}
	defer m.Close() // opened to read: closing cannot lose anything
	meta, err := m.readMetadata()
	if err != nil {
		return inPool(path, err)
	}
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	dumpHead(out, meta)
	for i := range uint64(2) {
		dumpCopy(out, i, meta[copyOffset(i):][:copySize])
	}
	if _, _, err := recoverTable(meta); err != nil {
		fmt.Fprintf(out, "verdict\t%v\n", err)
	} else {
		fmt.Fprintf(out, "verdict\ta pool\n")
	}
	return out.Flush()
}

func dumpHead(out io.Writer, meta []byte) {
	sum := "ok"
	if wire.Uint32(meta[12:]) != headChecksum(meta) {
		sum = "wrong"
	}
	fmt.Fprintf(out, "head\tmagic %q, version %d, checksum %s\n", meta[:8], wire.Uint32(meta[8:]), sum)
	word := wire.Uint64(meta[selectorOffset:])
	sequence, sound := decodeSelector(word)
	switch {
	case word == 0:
		fmt.Fprintf(out, "selector\t0: nothing was ever committed\n")
	case sound:
		fmt.Fprintf(out, "selector\tchange %d, in copy %d\n", sequence, sequence&1)
	default:
		fmt.Fprintf(out, "selector\tdamaged: %#016x\n", word)
	}
}

// dumpCopy shows the fields as they are, and then what is wrong with them.
func dumpCopy(out io.Writer, i uint64, b []byte) {
	count := wire.Uint32(b[68:])
	fmt.Fprintf(out, "copy %d\tmagic %q, version %d, change %d, checksum %#08x\n", i, b[:8], wire.Uint32(b[12:]), wire.Uint64(b[16:]), wire.Uint32(b[8:]))
	fmt.Fprintf(out, "\tpool %v, kind %d %s, layout %d %s, size %v, unit %v, %d regions\n", ID(b[24:40]), b[64], lookUp(kindCodes, b[64]),
		b[65], lookUp(layoutCodes, b[65]), Bytes(wire.Uint64(b[40:])), Bytes(wire.Uint64(b[48:])), count)
	if _, err := decodeTable(b); err != nil {
		fmt.Fprintf(out, "\t%v\n", err)
	}
	for n := range int(min(count, MaxRegions)) {
		e, err := decodeEntry(b[headerSize+n*entrySize:][:entrySize])
		if err != nil {
			fmt.Fprintf(out, "\tentry %d: %v\n", n, err)
			continue
		}
		fmt.Fprintf(out, "\tentry %d: %q %s, %s, %v at %v, inode %d\n", n, e.name, e.id, e.use, e.size, e.offset, e.inode)
	}
}
