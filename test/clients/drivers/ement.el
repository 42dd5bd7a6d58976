;;; ement.el --- Ement.el without a screen, for the tests  -*- lexical-binding: t; -*-

;; It writes what it hears, and does what the lines of the file $COMMANDS say: "join",
;; "say TEXT", "send FILE", "older", "stop". Pictures that it is sent it puts into files.

(package-initialize)
(require 'ement)

(customize-set-variable 'ement-save-sessions t)
(setq ement-sessions-file (expand-file-name "ement-sessions" (getenv "HOME"))
      ;; What needs a screen.
      ement-after-initial-sync-hook nil
      ement-room-join-view-buffer nil
      ement-room-images t ; as where there is a screen
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

(defvar test-pictures nil "Events whose pictures are on their way.")

(add-hook 'ement-event-hook
          (lambda (event room session)
            (when (and (equal "m.image" (alist-get 'msgtype (ement-event-content event)))
                       (not (equal (getenv "ID") (ement-user-id (ement-event-sender event)))))
              (let ((ement-room room) (ement-session session))
                (ement-room--format-m.image event)) ; what a room's buffer does: it downloads the picture
              (push event test-pictures))))

(defconst test-appended "\nProcess plz-request-curl stderr\\(?:<[0-9]+>\\)? finished\n\\'"
  "What plz 0.2 sometimes leaves behind what curl has downloaded.")

(defun test-opened ()
  (dolist (event test-pictures)
    (when-let ((picture (alist-get 'image (ement-event-local event)))
               (coding-system-for-write 'binary))
      (setq test-pictures (delq event test-pictures))
      (write-region (replace-regexp-in-string test-appended "" picture t t) nil (expand-file-name (test-body event) (getenv "HOME")) nil 'silent)
      (test-write "opened" (test-body event)))))

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
    (test-opened)
    (setq lines (with-temp-buffer
                  (insert-file-contents (getenv "COMMANDS"))
                  (split-string (buffer-substring (point-min) (save-excursion (goto-char (point-max)) (line-beginning-position))) "\n" t)))
    (dolist (line (nthcdr done lines))
      (setq done (1+ done))
      (test-do line))))

;;; ement.el ends here
