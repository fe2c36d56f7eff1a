# Fails when an object file built for one instruction set (*_bf16, *_amx) defines a weak or unique
# symbol: the linker may keep that copy for the whole program, which then dies on other machines.
foreach(object IN LISTS OBJECTS)
  if(object MATCHES "_(bf16|amx)\\.cpp\\.")
    execute_process(COMMAND ${NM} -C --defined-only ${object}
                    OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
    string(REGEX MATCHALL "[^\n]+ [WVu] [^\n]+" shared "${symbols}")
    list(FILTER shared EXCLUDE REGEX " DW\\.ref\\.")  # pointers of exception handling, no code
    if(shared)
      list(JOIN shared "\n  " shared)
      message(SEND_ERROR "${object} defines\n  ${shared}")
    endif()
  endif()
endforeach()
