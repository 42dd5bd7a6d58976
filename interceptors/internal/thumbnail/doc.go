// Package thumbnail makes small pictures of pictures that the homeserver cannot read
// because they are encrypted (Client-Server API, "Thumbnails"; MSC4409): of JPEG, PNG, GIF
// and WebP, with the standard library and golang.org/x/image.
//
// It promises that what a picture costs is known from its header, before anything is
// decoded: a picture with too many bytes or pixels, or one whose decoder would want more
// memory than there is, is refused with nothing allocated for it; all that are decoded at
// the same time stay within one bound, and the others wait for their turn. A picture that
// says one thing in its header and another later is broken. Of an animation only the first
// frame is read. Nothing is made larger than it was, nothing of the original but its pixels
// is in what comes out (no place where a photograph was taken), and photographs stand
// upright.
//
// It must never read from the network or write anywhere, and must never give out what a
// decoder made of a part of a picture.
//
// The packages of interceptors may import it; it knows nothing of Matrix' requests.
package thumbnail
