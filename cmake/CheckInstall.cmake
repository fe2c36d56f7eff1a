# Installs BUILD_DIR's library into an empty prefix, then configures, builds and runs CONSUMER.
set(work ${BUILD_DIR}/install-test)
file(REMOVE_RECURSE ${work})
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${work}/prefix --component devel)
run(${CMAKE_COMMAND} -S ${CONSUMER} -B ${work}/build -G ${CMAKE_GENERATOR}
    -DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM} -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}
    -DCMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE} -DCMAKE_PREFIX_PATH=${work}/prefix)
run(${CMAKE_COMMAND} --build ${work}/build)

# The example's programs lie at the top of its build folder.
file(GLOB programs ${work}/build/*)
set(ran FALSE)
foreach(program IN LISTS programs)
  file(READ ${program} magic LIMIT 4 HEX)
  if(magic STREQUAL "7f454c46")
    run(${program})
    set(ran TRUE)
  endif()
endforeach()
if(NOT ran)
  message(FATAL_ERROR "${CONSUMER} built no program")
endif()
