package attachment

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

func bytesOf(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(b)
	return b
}

// What is uploaded is AES-256-CTR under the key that the file has, with the hash of the
// ciphertext; what is read back from any place is what was there.
func TestFilesAreReadBackFromAnyPlace(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 15, 16, 17, 4096, 100_001, 3 * Piece} {
		want := bytesOf(n)
		up, err := NewUpload(iotest.HalfReader(bytes.NewReader(want)))
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := io.ReadAll(up)
		if err != nil {
			t.Fatal(err)
		}
		f, err := up.File("mxc://hs/a")
		if err != nil || f.Size != int64(n) {
			t.Fatalf("%d: %v, %d", n, err, f.Size)
		}
		block, err := aes.NewCipher(f.Key.Secret[:])
		if err != nil {
			t.Fatal(err)
		}
		by := make([]byte, n)
		cipher.NewCTR(block, f.Key.Counter[:]).XORKeyStream(by, want)
		if !bytes.Equal(by, sealed) || sha256.Sum256(sealed) != f.Key.Hash || !bytes.Equal(f.Key.Counter[8:], make([]byte, 8)) {
			t.Errorf("%d: not the file that the specification describes", n)
		}
		check := NewCheck()
		_, _ = check.Write(sealed)
		if !check.Fits(&f) {
			t.Errorf("%d: its hash does not fit", n)
		}
		if err := iotest.TestReader(f.Clear(bytes.NewReader(sealed), int64(n)), want); err != nil {
			t.Errorf("%d: %v", n, err)
		}
	}
}

// What is done to a buffer after it was read or written is not in the hash, however large it is.
func TestHashOfBuffersThatAreUsedAgain(t *testing.T) {
	t.Parallel()
	want := bytesOf(3*Piece + 5)
	up, err := NewUpload(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	check, buf := NewCheck(), make([]byte, Piece)
	for {
		n, err := up.Read(buf)
		if _, failed := check.Write(buf[:n]); failed != nil {
			t.Fatal(failed)
		}
		clear(buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := up.File("mxc://hs/a")
	if err != nil || !check.Fits(&f) || !check.Fits(&f) {
		t.Errorf("%v: what was read has another hash than what was written", err)
	}
	if _, _ = check.Write([]byte("x")); check.Fits(&f) {
		t.Error("a longer file fits")
	}
}

// What is taken in pieces is the same as what is read, in turns too, and none is written over before
// it was sent.
func TestPiecesOfAnUpload(t *testing.T) {
	t.Parallel()
	want := bytesOf(7*Piece + 5)
	up, err := NewUpload(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	var sealed, before, sending []byte
	sent := func() {}
	head := make([]byte, 1000)
	for len(sealed) < len(want) {
		n, err := up.Read(head)
		sealed = append(sealed, head[:n]...)
		data, done, failed := up.Piece(int64(len(want) - len(sealed)))
		if err != nil || failed != nil {
			t.Fatal(err, failed)
		}
		if !bytes.Equal(sending, before) {
			t.Error("written over")
		}
		sent()
		sealed = append(sealed, data...)
		sending, before, sent = data, bytes.Clone(data), done
		up.sum.wait() // it is hashed, and not sent yet
	}
	sent()
	if data, done, err := up.Piece(1); len(data) != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %d, %v", len(data), err)
	} else {
		done()
	}
	f, err := up.File("mxc://hs/a")
	if err != nil || f.Size != int64(len(want)) || f.Key.Hash != sha256.Sum256(sealed) {
		t.Errorf("%v: another file", err)
	}
	got, err := io.ReadAll(f.Clear(bytes.NewReader(sealed), f.Size))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v: another text", err)
	}
}

// A ciphertext is hashed while it is kept, whatever pieces it comes in. One that breaks off is not
// taken for whole, whatever the error is, and one that cannot be kept is not either.
func TestCheckWhileItIsKept(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, firstPiece - 1, firstPiece, firstPiece + 1, firstPiece + Piece, 12*Piece + 5} {
		want := bytesOf(n)
		f := File{Key: Key{Hash: sha256.Sum256(want)}}
		for name, from := range map[string]io.Reader{"whole": bytes.NewReader(want), "halves": iotest.HalfReader(bytes.NewReader(want)), "with its end": iotest.DataErrReader(bytes.NewReader(want))} {
			check, kept := NewCheck(), new(bytes.Buffer)
			if err := check.Copy(kept, from); err != nil || !check.Fits(&f) || !bytes.Equal(kept.Bytes(), want) {
				t.Errorf("%d bytes, %s: %v, %d are kept", n, name, err, kept.Len())
			}
		}
		if err := NewCheck().Copy(new(bytes.Buffer), io.MultiReader(bytes.NewReader(want), iotest.ErrReader(io.ErrUnexpectedEOF))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes and no end: %v", n, err)
		}
	}
	if err := NewCheck().Copy(full{}, bytes.NewReader(bytesOf(1))); !errors.Is(err, errFull) {
		t.Errorf("cannot be kept: %v", err)
	}
}

var errFull = errors.New("full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

// The counter carries over as a number of 128 bits.
func TestCounterThatOverflows(t *testing.T) {
	t.Parallel()
	var f File
	for i := range f.Key.Counter {
		f.Key.Counter[i] = 0xff
	}
	f.Key.Counter[0] = 0x12
	want := bytesOf(200)
	block, err := aes.NewCipher(f.Key.Secret[:])
	if err != nil {
		t.Fatal(err)
	}
	sealed := make([]byte, len(want))
	cipher.NewCTR(block, f.Key.Counter[:]).XORKeyStream(sealed, want)
	if err := iotest.TestReader(f.Clear(bytes.NewReader(sealed), int64(len(sealed))), want); err != nil {
		t.Error(err)
	}
}

// An upload that was cut off is no file.
func TestUploadThatIsCutOff(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	up, err := NewUpload(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(up); !errors.Is(err, broken) {
		t.Errorf("read: %v", err)
	}
	if f, err := up.File("mxc://hs/a"); err == nil {
		t.Errorf("got %v", f.URL)
	}
}

// A key says nothing when it is printed.
func TestKeysAreNotPrinted(t *testing.T) {
	t.Parallel()
	f := File{Key: newKey()}
	for _, form := range []string{"%v", "%+v", "%#v", "%s"} {
		if out := fmt.Sprintf(form, f.Key); out != "‹redacted›" {
			t.Errorf("%s: %s", form, out)
		}
	}
}
