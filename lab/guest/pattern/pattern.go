// Package pattern fills memory with content that follows from a seed and a step counter alone, so that any
// word that is lost, stale or foreign is found.
//
// Memory is cut into blocks of 4 KiB. Every step rewrites the next few blocks in turn. Which version of a
// block must be in memory is computed from the step counter and never stored: a rewrite that reached the
// counter but not the memory, or the memory but not the counter, is a mismatch. What cannot be found from
// inside is the whole of memory, counter included, going back together to an earlier consistent state; for that a
// reader outside compares the counter with the last one it saw.
package pattern

import (
	"fmt"
	"math/bits"
)

// WordsPerBlock is the size of a block in 8-byte words.
const WordsPerBlock = 512

// rewritesPerStep keeps a step cheap under binary translation (64 KiB) while a few thousand steps still
// touch every block of a common buffer.
const rewritesPerStep = 16

// Pattern is one owner's piece of memory. It is not safe for concurrent use; several CPUs use one Pattern each.
type Pattern struct {
	seed    uint64
	words   []uint64
	digests []uint64 // of each block as last written, a second witness beside the computed content
	sum     uint64   // exclusive or of digests
	rewrite uint64   // blocks rewritten since New
	cursor  int      // next block that CheckNext reads
	err     error    // first mismatch, kept
}

// New fills words, whose length must be a multiple of WordsPerBlock and not zero.
func New(seed uint64, words []uint64) (*Pattern, error) {
	if len(words) == 0 || len(words)%WordsPerBlock != 0 {
		return nil, fmt.Errorf("pattern of %d words: want a multiple of %d", len(words), WordsPerBlock)
	}
	p := &Pattern{seed: seed, words: words, digests: make([]uint64, len(words)/WordsPerBlock)}
	for b := range p.digests {
		p.write(b, 0)
	}
	return p, nil
}

// Blocks returns the number of blocks.
func (p *Pattern) Blocks() int { return len(p.digests) }

// Sum returns the digest of the whole content. It changes with every Step and is a function of seed, size and steps.
func (p *Pattern) Sum() uint64 { return p.sum }

// Err returns the first mismatch ever found, or nil.
func (p *Pattern) Err() error { return p.err }

// Step rewrites the next blocks. Each is checked first, so a mismatch cannot be painted over.
func (p *Pattern) Step() {
	for range rewritesPerStep {
		b := int(p.rewrite % uint64(len(p.digests)))
		p.check(b)
		version := p.version(b) + 1
		p.rewrite++
		p.write(b, version)
	}
}

// CheckNext verifies the next n blocks in turn, wrapping at the end.
func (p *Pattern) CheckNext(n int) {
	for range n {
		p.check(p.cursor)
		p.cursor = (p.cursor + 1) % len(p.digests)
	}
}

// CheckAll verifies every block now, and that the digests add up to the sum. It returns Err.
func (p *Pattern) CheckAll() error {
	var sum uint64
	for b := range p.digests {
		p.check(b)
		sum ^= p.digests[b]
	}
	if sum != p.sum && p.err == nil {
		p.err = fmt.Errorf("memory: block digests add up to %016x, want %016x", sum, p.sum)
	}
	return p.err
}

// version says how often block b has been rewritten, which follows from the number of rewrites.
func (p *Pattern) version(b int) uint64 {
	n := uint64(len(p.digests))
	v := p.rewrite / n
	if uint64(b) < p.rewrite%n {
		v++
	}
	return v
}

func (p *Pattern) write(b int, version uint64) {
	base, digest := p.base(b, version), uint64(0)
	block := p.words[b*WordsPerBlock : (b+1)*WordsPerBlock]
	for i := range block {
		w := word(base, i)
		block[i] = w
		digest = fold(digest, w)
	}
	p.sum ^= p.digests[b] ^ digest
	p.digests[b] = digest
}

func (p *Pattern) check(b int) {
	if p.err != nil {
		return
	}
	version := p.version(b)
	base, digest := p.base(b, version), uint64(0)
	for i, w := range p.words[b*WordsPerBlock : (b+1)*WordsPerBlock] {
		if want := word(base, i); w != want {
			p.err = fmt.Errorf("memory: block %d version %d word %d is %016x, want %016x", b, version, i, w, want)
			return
		}
		digest = fold(digest, w)
	}
	if digest != p.digests[b] {
		p.err = fmt.Errorf("memory: block %d version %d has digest %016x, recorded is %016x", b, version, digest, p.digests[b])
	}
}

func (p *Pattern) base(b int, version uint64) uint64 {
	return mix(mix(mix(p.seed)+uint64(b)) + version)
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection that spreads every bit.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// word is a lighter mix: it runs half a million times a MiB under binary translation.
func word(base uint64, i int) uint64 {
	x := (base + uint64(i)) * 0x9e3779b97f4a7c15
	return x ^ x>>29
}

// fold is a bijection in either argument, so one changed word always changes the digest.
func fold(digest, w uint64) uint64 {
	return bits.RotateLeft64(digest, 5)*0x100000001b3 ^ w
}
