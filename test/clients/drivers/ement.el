;;; ement.el --- Ement.el without a screen, for the tests  -*- lexical-binding: t; -*-

;; It writes what it hears, and does what the lines of the file $COMMANDS say: "join",
;; "say TEXT", "send FILE", "older", "stop".

(package-initialize)
(require 'ement)

(customize-set-variable 'ement-save-sessions t)
(setq ement-sessions-file (expand-file-name "ement-sessions" (getenv "HOME"))
      ;; What needs a screen.
      ement-after-initial-sync-hook nil
      ement-room-join-view-buffer nil
      ement-notify-dbus-p nil
      ement-notify-mark-frame-urgent-predicates nil)

(defun test-write (&rest words)
  "Write a line that the test reads."
  (message "%s" (string-join words " ")))

(defun test-session () (cdar ement-sessions))

(defun test-room ()
  (cl-find (getenv "ROOM") (ement-session-rooms (test-session)) :key #'ement-room-id :test #'equal))

(defun test-body (event)
  (alist-get 'body (ement-event-content event)))

(add-hook 'ement-event-hook
          (lambda (event _room _session)
            (when (equal "m.room.message" (ement-event-type event))
              (test-write "heard" (test-body event)))))

(add-hook 'ement-after-initial-sync-hook (lambda (_session) (test-write "synced")))

(defun test-do (line)
  (pcase line
    ("join" (ement-room-join (getenv "ROOM") (test-session) :then (lambda (_room _session) (test-write "joined"))))
    ("older" (let ((room (test-room)))
               (ement-room-retro
                room (test-session) 50
                :then (lambda (data)
                        (ement-room-retro-callback room (test-session) data)
                        (dolist (event (append (ement-room-timeline room) nil))
                          (when (equal "m.room.message" (ement-event-type event))
                            (test-write "older" (test-body event))))))))
    ((rx bos "send " (let file (1+ anything)))
     (cl-letf (((symbol-function 'yes-or-no-p) #'always)) ; the answer of a person
       (ement-room-send-image file (file-name-nondirectory file) (test-room) (test-session))))
    ("stop" (kill-emacs 0))
    (_ (ement-send-message (test-room) (test-session) :body (string-remove-prefix "say " line)))))

(if (file-exists-p ement-sessions-file)
    (call-interactively #'ement-connect)
  (ement-connect :user-id (getenv "ID") :password (getenv "PASSWORD") :uri-prefix (getenv "URL")))

(let ((done 0) lines)
  (while t
    (accept-process-output nil 0.02)
    (setq lines (with-temp-buffer
                  (insert-file-contents (getenv "COMMANDS"))
                  (split-string (buffer-substring (point-min) (save-excursion (goto-char (point-max)) (line-beginning-position))) "\n" t)))
    (dolist (line (nthcdr done lines))
      (setq done (1+ done))
      (test-do line))))

;;; ement.el ends here
