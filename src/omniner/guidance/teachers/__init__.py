"""The kinds of teachers, one module each; its entry (`guidance.teacher.TeacherKind`) describes the kind."""
