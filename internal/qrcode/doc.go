// Package qrcode makes pictures of QR codes from bytes, and reads bytes from pictures of QR
// codes. The bytes need not be text: codes of Matrix are not.
//
// It promises that a picture from anybody costs a bounded amount of memory and time, and never
// ends the process.
//
// It must never know what a code is for, or keep one.
//
// Importers: interceptors/internal/control and whoever shows codes.
package qrcode
