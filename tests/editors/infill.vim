" Drives the proxy from Vim or Neovim as llama.vim does: its bodies, sent by curl as a job of the editor's, with the settings
" that `codeseal proxy --editor vim` (or neovim) prints. A newer key ends the job of the one before.

let s:name = has('nvim') ? 'neovim' : 'vim'
let s:scenes = json_decode($CODESEAL_SCENES)
let s:suffix = "\n\nprint(add(1, 2))\n"
" The model goes on with this for as long as it may.
let s:endless = $CODESEAL_ENDLESS
let s:job = v:null
let s:ended = []

func! s:Report(fields) abort
  let fields = extend({'client': s:name}, a:fields)
  let said = system('curl --silent --show-error --fail --header "content-type: application/json" --data @- ' . $CODESEAL_CONDUCTOR . '/report', json_encode(fields))
  if v:shell_error | throw 'the test does not take a report: ' . said | endif
endfunc

func! s:Until(load) abort
  call system('curl --silent --fail ' . shellescape($CODESEAL_CONDUCTOR . '/wait/' . a:load))
  if v:shell_error | throw 'not in time: ' . a:load | endif
endfunc

" Loads what `--editor` printed for a scene's proxy.
func! s:Configure(scene) abort
  unlet! g:llama_config
  execute (has('nvim') ? 'luafile ' : 'source ') . fnameescape($CODESEAL_SNIPPETS . '/' . a:scene . '/' . s:name)
endfunc

" llama.vim's request for a completion at the cursor.
func! s:Body(prefix, prompt, n_predict, stream) abort
  let suffix = a:prefix ==# s:endless ? "\n" : s:suffix
  return {'id_slot': 0, 'input_prefix': a:prefix, 'input_suffix': suffix, 'input_extra': [], 'prompt': a:prompt,
        \ 'n_predict': a:n_predict, 'stop': [], 'n_indent': 4, 'top_k': 40, 'top_p': 0.90,
        \ 'samplers': ['top_k', 'top_p', 'infill'], 'stream': a:stream, 'cache_prompt': v:true,
        \ 't_max_prompt_ms': 500, 't_max_predict_ms': 60000,
        \ 'response_fields': ['content', 'timings/prompt_n', 'timings/prompt_ms', 'timings/predicted_n', 'truncated',
        \ 'tokens_cached']}
endfunc

" Sends a request as a job. A job that still runs is killed first, as llama.vim does for each key.
func! s:Key(body) abort
  if s:job isnot v:null
    if has('nvim') | call jobstop(s:job) | else | call job_stop(s:job) | endif
  endif
  let command = ['curl', '--silent', '--no-buffer', '--request', 'POST', '--url', g:llama_config.endpoint_fim,
        \ '--header', 'Content-Type: application/json', '--data', '@-']
  if len(g:llama_config.api_key)
    call extend(command, ['--header', 'Authorization: Bearer ' . g:llama_config.api_key])
  endif
  let job = {'lines': [], 'code': v:null}
  if has('nvim')
    let s:job = jobstart(command, {
          \ 'on_stdout': {_, lines, event -> extend(job.lines, filter(copy(lines), 'len(v:val)'))},
          \ 'stdout_buffered': v:true, 'on_exit': {_, code, event -> extend(job, {'code': code})}})
    call chansend(s:job, json_encode(a:body))
    call chanclose(s:job, 'stdin')
  else
    " Vim may report the exit before the last output: the channel closes after both.
    let s:job = job_start(command, {
          \ 'out_cb': {_, line -> add(job.lines, line)}, 'exit_cb': {_, code -> extend(job, {'exited': code})},
          \ 'close_cb': {_ -> extend(job, {'closed': 1})}})
    let channel = job_getchannel(s:job)
    call ch_sendraw(channel, json_encode(a:body))
    call ch_close_in(channel)
  endif
  return job
endfunc

func! s:Wait(job) abort
  for _ in range(6000)
    if has_key(a:job, 'exited') && has_key(a:job, 'closed') | let a:job.code = a:job.exited | endif
    if a:job.code isnot v:null | let s:job = v:null | return a:job | endif
    sleep 10m
  endfor
  throw 'the job does not end'
endfunc

" What a user sees of a job's output: the text, and what went wrong.
func! s:Shown(job) abort
  let [text, message] = ['', '']
  for line in filter(copy(a:job.lines), 'len(v:val)')
    let answer = json_decode(substitute(line, '^data: ', '', ''))
    let text .= get(answer, 'content', '')
    if has_key(answer, 'error') | let message = answer.error.message | endif
  endfor
  if a:job.code == 0 && message ==# '' | return {'shown': text, 'error': v:null} | endif
  return {'shown': text, 'error': {'name': 'exit ' . a:job.code, 'message': message}}
endfunc

func! s:Prefix(form) abort
  return '# ' . s:name . ', ' . a:form . "\ndef add(a, b):\n    return "
endfunc

func! s:Drive() abort
  for scene in ['good', 'token', 'down', 'not_verified', 'busy', 'cut']
    call s:Configure(scene)
    for form in ['whole', 'stream']
      if scene ==# 'cut' && form !=# 'stream' | continue | endif
      let job = s:Wait(s:Key(s:Body(s:Prefix(form), '', 12, form ==# 'stream' ? v:true : v:false)))
      call s:Report(extend({'scene': scene, 'form': form}, s:Shown(job)))
    endfor
  endfor

  call s:Configure('good')
  for form in ['whole', 'stream']
    let killed = s:Key(s:Body(s:endless, '', 4000, form ==# 'stream' ? v:true : v:false))
    call s:Until('running')
    if has('nvim') | call jobstop(s:job) | else | call job_stop(s:job) | endif
    call s:Wait(killed)
    call s:Until('idle')
    call s:Report({'scene': 'cancelled', 'form': form, 'error': {'name': 'exit ' . killed.code}})
  endfor

  " Typing: each key kills the job of the one before, and the last one gets its answer.
  let killed = []
  for text in ['a', 'a.', 'a.a', 'a.a.']
    call add(killed, s:Key(s:Body(s:endless, text, 4000, v:false)))
    call s:Until('running?requests=' . len(killed))
  endfor
  let last = s:Wait(s:Key(s:Body(s:endless, 'a.a.a', 12, v:false)))
  call map(killed, 's:Wait(v:val).code')
  call s:Until('idle')
  call s:Report(extend({'scene': 'good', 'form': 'typing', 'codes': killed}, s:Shown(last)))

  " What llama.vim sends while nothing is typed: the surroundings are read into the cache, and nothing is predicted.
  let body = extend(s:Body(s:Prefix('warm'), '', 0, v:false), {'samplers': [], 't_max_prompt_ms': 1, 't_max_predict_ms': 1})
  call s:Report(extend({'scene': 'good', 'form': 'warm'}, s:Shown(s:Wait(s:Key(body)))))

  " The first request of a file has a short deadline: what there is by then is the answer.
  let body = extend(s:Body(s:endless, 'a.a.a.a.', 4000, v:false), {'t_max_predict_ms': 250})
  call s:Report(extend({'scene': 'good', 'form': 'deadline'}, s:Shown(s:Wait(s:Key(body)))))
endfunc

try
  call s:Drive()
catch
  call writefile([v:exception, v:throwpoint], '/dev/stderr')
  cquit!
endtry
qall!
