-- Shows a completion of the proxy's as ghost text in Neovim: what llama.vim does, in a few lines, for the picture in docs/editors.md.
-- Settings: `vim.g.llama_config`, as `codeseal proxy --editor neovim` prints them.

local namespace = vim.api.nvim_create_namespace("codeseal-ghost")

local function complete()
  local row, column = unpack(vim.api.nvim_win_get_cursor(0))
  local lines = vim.api.nvim_buf_get_lines(0, 0, -1, false)
  local line = lines[row]
  local body = vim.json.encode({
    input_prefix = table.concat(vim.list_slice(lines, 1, row - 1), "\n") .. (row > 1 and "\n" or ""),
    input_suffix = line:sub(column + 1) .. "\n" .. table.concat(vim.list_slice(lines, row + 1), "\n"),
    prompt = line:sub(1, column), n_predict = 64, stream = false,
  })
  local command = { "curl", "--silent", "--data", "@-", vim.g.llama_config.endpoint_fim }
  local job = vim.fn.jobstart(command, {
    stdout_buffered = true,
    on_stdout = function(_, output)
      local ok, answer = pcall(vim.json.decode, table.concat(output, "\n"))
      if not ok or not answer.content then return end
      local ghost = vim.split((answer.content:gsub("\n+$", "")), "\n")
      local below = {}
      for index = 2, #ghost do below[#below + 1] = { { ghost[index], "Comment" } } end
      vim.api.nvim_buf_clear_namespace(0, namespace, 0, -1)
      vim.api.nvim_buf_set_extmark(0, namespace, row - 1, #line, {
        virt_text = { { ghost[1], "Comment" } }, virt_text_pos = "overlay", virt_lines = below,
      })
    end,
  })
  vim.fn.chansend(job, body)
  vim.fn.chanclose(job, "stdin")
end

vim.api.nvim_create_autocmd({ "TextChangedI", "InsertEnter" }, { callback = complete })
