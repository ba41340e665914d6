package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/nv-hypervisor/nv-hypervisor/lab/agent"
)

// CopyIn copies a file, or a folder with all it holds, to a path inside. If that is a folder, the copy is made in it
// under its own name. Owners become root; what is neither a file, a folder nor a symbolic link is refused.
func (h *Host) CopyIn(ctx context.Context, from, to string) error {
	if !path.IsAbs(to) {
		return fmt.Errorf("copy to %q in the host: the path must be absolute", to)
	}
	to, err := h.target(ctx, to, filepath.Base(from))
	if err != nil {
		return err
	}
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(pack(writer, from, path.Base(to))) }()
	defer reader.Close()
	var problem bytes.Buffer
	exit, err := h.Exec(ctx, agent.Command{Args: []string{"tar", "-x", "-f", "-", "-C", path.Dir(to)}},
		agent.Streams{Stdin: reader, Stderr: &problem})
	if err == nil && exit != 0 {
		err = errors.New(strings.TrimSpace(problem.String()))
	}
	if err != nil {
		return fmt.Errorf("copy %s to %s in the host: %w", from, to, err)
	}
	return nil
}

// target is the path of a copy: in the folder that is there, or the path itself.
func (h *Host) target(ctx context.Context, to, name string) (string, error) {
	exit, err := h.Exec(ctx, agent.Command{Args: []string{"test", "-d", to}}, agent.Streams{})
	if err == nil && exit == 0 {
		to = path.Join(to, name)
	}
	return to, err
}

// pack writes what is at from, under another name.
func pack(w io.Writer, from, name string) error {
	archive := tar.NewWriter(w)
	err := filepath.WalkDir(from, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(from, at)
		if err != nil {
			return err
		}
		return packOne(archive, at, filepath.Join(name, below))
	})
	return errors.Join(err, archive.Close())
}

func packOne(archive *tar.Writer, at, name string) error {
	info, err := os.Lstat(at)
	if err != nil {
		return err
	}
	link := ""
	switch {
	case info.Mode().IsRegular(), info.IsDir():
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = os.Readlink(at); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s is neither a file, a folder nor a link", at)
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name, header.Uid, header.Gid, header.Uname, header.Gname = name, 0, 0, "", ""
	if err := archive.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(archive, f)
	return err
}

// CopyOut copies a file, or a folder with all it holds, out of the host. If to is a folder, the copy is made in it
// under its own name.
func (h *Host) CopyOut(ctx context.Context, from, to string) error {
	if !path.IsAbs(from) {
		return fmt.Errorf("copy %q from the host: the path must be absolute", from)
	}
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		to = filepath.Join(to, path.Base(from))
	}
	reader, writer := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := unpack(reader, path.Base(from), to)
		reader.CloseWithError(err)
		unpacked <- err
	}()
	var problem bytes.Buffer
	exit, err := h.Exec(ctx, agent.Command{Args: []string{"tar", "-c", "-f", "-", "-C", path.Dir(from), path.Base(from)}},
		agent.Streams{Stdout: writer, Stderr: &problem})
	if err == nil && exit != 0 {
		err = errors.New(strings.TrimSpace(problem.String()))
	}
	writer.CloseWithError(err) // nil is io.EOF
	if err := errors.Join(err, <-unpacked); err != nil {
		return fmt.Errorf("copy %s from the host to %s: %w", from, to, err)
	}
	return nil
}

// unpack writes an archive of name at to. Nothing is written elsewhere, whatever the archive says.
func unpack(r io.Reader, name, to string) error {
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r) // what tar adds behind the end
			return err
		}
		if err != nil {
			return err
		}
		below, ok := strings.CutPrefix(path.Clean(header.Name), name)
		if !ok || below != "" && !strings.HasPrefix(below, "/") || !filepath.IsLocal(header.Name) {
			return fmt.Errorf("unexpected entry %q", header.Name)
		}
		if err := unpackOne(archive, header, to+below); err != nil {
			return err
		}
	}
}

func unpackOne(archive *tar.Reader, header *tar.Header, at string) error {
	switch header.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(at, 0o755)
	case tar.TypeReg:
	default:
		return fmt.Errorf("%s is neither a file nor a folder", header.Name)
	}
	f, err := os.OpenFile(at, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, header.FileInfo().Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(f, archive)
	return errors.Join(err, f.Close())
}
