;;; infill.el --- Drives the proxy from Emacs  -*- lexical-binding: t -*-

;; url.el with the settings that `codeseal proxy --editor emacs` prints for minuet. minuet itself is in no package archive
;; that can be reached in CI: the variables that the settings change are declared here.

(require 'json)
(require 'url)
(require 'url-http)

(defvar minuet-provider 'openai)
(defvar minuet-n-completions 3)
(defvar minuet-openai-fim-compatible-options nil)

(defun minuet-set-optional-options (options key value)
  "Set KEY to VALUE among the optional members of OPTIONS."
  (plist-put options :optional (plist-put (plist-get options :optional) key value)))

(provide 'minuet)

(defvar scenes (json-parse-string (getenv "CODESEAL_SCENES") :object-type 'alist))

(defun conductor (path &optional fields)
  "Ask the test for PATH, or send it FIELDS."
  (let ((command (append (list "--silent" "--fail" (concat (getenv "CODESEAL_CONDUCTOR") path))
                         (when fields (list "--header" "content-type: application/json" "--data" "@-")))))
    (with-temp-buffer
      (when fields (insert (json-serialize fields :null-object nil)))
      (unless (eq 0 (apply #'call-process-region (point-min) (point-max) "curl" nil nil nil command))
        (error "The test does not answer")))))

(defun configure (scene)
  "Load what `--editor emacs' printed for the proxy of SCENE."
  (setq minuet-openai-fim-compatible-options
        (list :model "" :end-point "" :api-key "" :name "" :template nil :optional nil))
  (load (format "%s/%s/emacs" (getenv "CODESEAL_SNIPPETS") scene) nil t t)
  (unless (and (eq minuet-provider 'openai-fim-compatible) (eq minuet-n-completions 1))
    (error "The printed settings have no effect")))

(defun ask (prefix suffix tokens callback)
  "Send PREFIX and SUFFIX as minuet does; CALLBACK gets url.el's status. Return the buffer of the answer."
  (let* ((options minuet-openai-fim-compatible-options)
         (url-request-method "POST")
         (url-request-extra-headers
          `(("Content-Type" . "application/json")
            ("Authorization" . ,(concat "Bearer " (funcall (plist-get options :api-key))))))
         (url-request-data
          (encode-coding-string
           (json-serialize `(:model ,(plist-get options :model) :prompt ,prefix :suffix ,suffix :stream :false
                             :max_tokens ,tokens :temperature 0))
           'utf-8)))
    (url-retrieve (plist-get options :end-point) callback nil t t)))

(defun await (done)
  "Wait until the function DONE returns non-nil."
  (let ((left 6000))
    (while (and (not (funcall done)) (> left 0))
      (setq left (1- left))
      (accept-process-output nil 0.01))
    (unless (> left 0) (error "No answer"))))

(defun answer (prefix tokens)
  "The body of the answer to PREFIX, as JSON."
  (let* (done (buffer (ask prefix "\n\nprint(add(1, 2))\n" tokens (lambda (status) (setq done (list status))))))
    (await (lambda () done))
    (unless (buffer-local-value 'url-http-end-of-headers buffer) (error "No answer: %S" done))
    (with-current-buffer buffer
      (goto-char url-http-end-of-headers)
      (json-parse-buffer :object-type 'alist :null-object nil))))

(dolist (scene '("good" "token" "down" "not_verified" "busy"))
  (configure scene)
  (let* ((body (answer "# emacs, whole\ndef add(a, b):\n    return " 12))
         (failure (alist-get 'error body)))
    (conductor "/report"
               (if failure
                   `(:client "emacs" :scene ,scene :form "whole" :shown ""
                     :error (:code ,(alist-get 'code failure) :message ,(alist-get 'message failure)))
                 `(:client "emacs" :scene ,scene :form "whole"
                   :shown ,(alist-get 'text (aref (alist-get 'choices body) 0)))))))

(configure "good")
(let ((buffer (ask (getenv "CODESEAL_ENDLESS") "\n" 4000 #'ignore)))
  ;; Emacs does nothing while it waits for curl, so the request must have left before.
  (await (lambda () (eq 'open (process-status (get-buffer-process buffer)))))
  (conductor "/wait/running")
  (delete-process (get-buffer-process buffer))
  (conductor "/wait/idle")
  (conductor "/report" '(:client "emacs" :scene "cancelled" :form "whole" :error (:name "deleted"))))
