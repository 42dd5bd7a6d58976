package sqlio

import "testing"

// TestTheNumberOfStatementsIsBounded: whatever the sizes, few texts are made and kept.
func TestTheNumberOfStatementsIsBounded(t *testing.T) {
	t.Parallel()
	made := NewTextCache(SQLite())
	put := ReplaceRows("shares", OfDevice, []string{"session_id", "user_id", "device_id"},
		[]string{"curve25519", "message_index", "withheld"})
	for n := 1; n < 5000; n += 7 {
		items := make([]any, n*put.Width)
		err := put.Each(made, []any{1, 2}, items, func(_ string, params []any) error {
			if len(params) > maxParams+2 {
				t.Fatalf("%d parameters in one statement", len(params))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(made.made) > 10 {
		t.Errorf("%d texts are kept for one statement", len(made.made))
	}
}
